//! `scaibunker groups`

use std::slice;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use scaibunker_api::{
    iam::{CreateGroup, Group, PatchGroup, Tenant, User},
    ids::{GroupId, UserId},
};

use crate::{
    cli::GlobalArgs,
    client::Client,
    exit::Failure,
    object_ref::{resolve, resolve_in, resolve_some},
    records, tables,
};

/// List, make and change groups of users
#[derive(Debug, Args)]
pub struct GroupsArgs {
    #[command(subcommand)]
    what: Groups,
}

#[derive(Debug, Subcommand)]
enum Groups {
    /// List the groups you see, newest first; with --quiet only their ids
    Ls {
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Make a group and print its id
    Create {
        name: String,
        /// Whose it is to be [default: yours]
        #[arg(long)]
        tenant: Option<String>,
        /// The group it is part of: its members are members of that one too
        #[arg(long, value_name = "GROUP")]
        parent: Option<String>,
    },
    /// Show a group
    Show {
        /// Id or name
        group: String,
    },
    /// List the users in a group itself, newest first; with --quiet only their ids
    Members {
        /// Id or name
        group: String,
    },
    /// Change a group
    Set {
        /// Id or name
        group: String,
        /// Its new name
        #[arg(long, required_unless_present_any = ["parent", "no_parent"])]
        name: Option<String>,
        /// The group it is to be part of
        #[arg(long, value_name = "GROUP")]
        parent: Option<String>,
        /// Make it part of none
        #[arg(long, conflicts_with = "parent")]
        no_parent: bool,
    },
    /// Put users into a group
    Add(MemberArgs),
    /// Take users out of a group
    Remove(MemberArgs),
    /// Delete groups, and print their ids
    Rm {
        /// Id or name
        #[arg(value_name = "GROUP", required = true)]
        groups: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct MemberArgs {
    /// Id or name
    group: String,
    /// Id, name or email of a user
    #[arg(value_name = "USER", required = true)]
    users: Vec<String>,
}

impl MemberArgs {
    /// The group and the users; those of a group are all of its tenant.
    async fn resolve(&self, client: &Client) -> Result<(GroupId, Vec<UserId>), Failure> {
        let id = resolve::<Group>(client, &self.group).await?;
        let tenant = client.read::<Group>(id).await?.tenant_id;
        Ok((id, resolve_in::<User>(client, Some(tenant), &self.users).await?))
    }
}

pub async fn run(global: &GlobalArgs, args: GroupsArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    match args.what {
        Groups::Ls { tenant } => {
            let groups = match resolve_some::<Tenant>(&client, tenant.as_deref()).await? {
                Some(tenant) => client.list_where("tenant_id", tenant).await?,
                None => client.list().await?,
            };
            records::list(output, &groups, |all| tables::groups(all, Timestamp::now()))
        }
        Groups::Create { name, tenant, parent } => {
            let tenant_id = resolve_some::<Tenant>(&client, tenant.as_deref()).await?;
            let parent_id = resolve_in::<Group>(&client, tenant_id, parent.as_slice()).await?.pop();
            let body = CreateGroup { name, tenant_id, parent_id };
            records::made(output, &client.create::<Group>(&body).await?)
        }
        Groups::Show { group } => {
            let id = resolve::<Group>(&client, &group).await?;
            records::one(output, &client.read::<Group>(id).await?, tables::group)
        }
        Groups::Members { group } => {
            let members = client.members(resolve::<Group>(&client, &group).await?).await?;
            records::list(output, &members, |all| tables::users(all, Timestamp::now()))
        }
        Groups::Set { group, name, parent, no_parent } => {
            let id = resolve::<Group>(&client, &group).await?;
            let parent_id = match &parent {
                None => no_parent.then_some(None),
                Some(parent) => {
                    let tenant = Some(client.read::<Group>(id).await?.tenant_id);
                    let parent = slice::from_ref(parent);
                    resolve_in::<Group>(&client, tenant, parent).await?.pop().map(Some)
                }
            };
            let group = client.patch::<Group>(id, &PatchGroup { name, parent_id }).await?;
            records::one(output, &group, tables::group)
        }
        Groups::Add(args) => {
            let (id, users) = args.resolve(&client).await?;
            for user in users {
                client.add_member(id, user).await?;
            }
            Ok(())
        }
        Groups::Remove(args) => {
            let (id, users) = args.resolve(&client).await?;
            for user in users {
                client.remove_member(id, user).await?;
            }
            Ok(())
        }
        Groups::Rm { groups } => records::remove::<Group>(&client, output, &groups).await,
    }
}
