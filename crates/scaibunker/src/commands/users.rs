//! `scaibunker users`

use clap::{
    ArgGroup, Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::Timestamp;
use scaibunker_api::{
    iam::{CreateUser, CustomRole, PatchUser, Role, Tenant, User},
    permission::Permission,
};

use super::{roles::permission, tenants::StatusArgs};
use crate::{
    cli::GlobalArgs,
    client::Client,
    exit::Failure,
    object_ref::{resolve, resolve_in, resolve_some},
    records, tables,
};

/// What `users set` can change; something has to be.
const CHANGES: [&str; 10] = [
    "name",
    "role",
    "email",
    "oidc_subject",
    "custom_role",
    "no_email",
    "no_oidc_subject",
    "no_custom_roles",
    "suspend",
    "activate",
];

/// List, make and change users and what they may do
#[derive(Debug, Args)]
pub struct UsersArgs {
    #[command(subcommand)]
    what: Users,
}

#[derive(Debug, Subcommand)]
enum Users {
    /// List the users you see, newest first; with --quiet only their ids
    Ls {
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Make a user and print its id
    ///
    /// A `tenant_user` may do nothing before something is granted, and needs a key: see
    /// `scaibunker keys create --user`.
    Create(CreateArgs),
    /// Show a user
    Show {
        /// Id, name or email
        user: String,
    },
    /// Change a user
    ///
    /// What is given with --custom-role replaces all custom roles.
    Set(SetArgs),
    /// Allow a user more than its roles do
    Grant(PermissionArgs),
    /// Take back what was granted; what roles allow stays
    Revoke(PermissionArgs),
    /// Delete users and their keys, and print their ids
    Rm {
        /// Id, name or email
        #[arg(value_name = "USER", required = true)]
        users: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    name: String,
    /// Where the user is to be [default: in yours]
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    details: DetailArgs,
    /// Permission beside those of the roles; repeatable
    #[arg(long, value_name = "PERMISSION", hide_possible_values = true,
          value_parser = permission())]
    grant: Vec<Permission>,
}

#[derive(Debug, Args)]
struct DetailArgs {
    /// Built-in role
    #[arg(long, value_parser = role())]
    role: Option<Role>,
    /// Email address
    #[arg(long)]
    email: Option<String>,
    /// `sub` of the user's tokens from the OIDC issuer
    #[arg(long, value_name = "SUB")]
    oidc_subject: Option<String>,
    /// Custom role, by id or name; repeatable
    #[arg(long, value_name = "ROLE")]
    custom_role: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "scaibunker users set [OPTIONS] <USER>",
    group(ArgGroup::new("changes").args(CHANGES).required(true).multiple(true))
)]
struct SetArgs {
    /// Id, name or email
    user: String,
    /// The new name
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    details: DetailArgs,
    /// Take the email address away
    #[arg(long, conflicts_with = "email")]
    no_email: bool,
    /// Take the OIDC subject away
    #[arg(long, conflicts_with = "oidc_subject")]
    no_oidc_subject: bool,
    /// Take all custom roles away
    #[arg(long, conflicts_with = "custom_role")]
    no_custom_roles: bool,
    #[command(flatten)]
    status: StatusArgs,
}

#[derive(Debug, Args)]
struct PermissionArgs {
    /// Id, name or email
    user: String,
    /// Such as scaibunker:execute; `scaibunker:` may be left out
    #[arg(value_name = "PERMISSION", required = true, hide_possible_values = true,
          value_parser = permission())]
    permissions: Vec<Permission>,
}

fn role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::as_str))
        .try_map(|text| Role::from_text(&text).ok_or("it is no role"))
}

pub async fn run(global: &GlobalArgs, args: UsersArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    let changed = match args.what {
        Users::Ls { tenant } => {
            let users = match resolve_some::<Tenant>(&client, tenant.as_deref()).await? {
                Some(tenant) => client.list_where("tenant_id", tenant).await?,
                None => client.list().await?,
            };
            return records::list(output, &users, |all| tables::users(all, Timestamp::now()));
        }
        Users::Create(args) => return records::made(output, &create(&client, args).await?),
        Users::Rm { users } => return records::remove::<User>(&client, output, &users).await,
        Users::Show { user } => client.read(resolve::<User>(&client, &user).await?).await?,
        Users::Set(args) => set(&client, args).await?,
        Users::Grant(args) => {
            change_permissions(&client, &args.user, |granted| {
                let mut all = granted.to_vec();
                for &permission in &args.permissions {
                    if !all.contains(&permission) {
                        all.push(permission);
                    }
                }
                all
            })
            .await?
        }
        Users::Revoke(args) => {
            change_permissions(&client, &args.user, |granted| {
                granted.iter().filter(|kept| !args.permissions.contains(kept)).copied().collect()
            })
            .await?
        }
    };
    records::one(output, &changed, tables::user)
}

async fn create(client: &Client, args: CreateArgs) -> Result<User, Failure> {
    let DetailArgs { role, email, oidc_subject, custom_role } = args.details;
    let tenant_id = resolve_some::<Tenant>(client, args.tenant.as_deref()).await?;
    let body = CreateUser {
        name: args.name,
        tenant_id,
        email,
        role: role.unwrap_or_default(),
        custom_role_ids: resolve_in::<CustomRole>(client, tenant_id, &custom_role).await?,
        module_permissions: args.grant,
        oidc_subject,
    };
    Ok(client.create::<User>(&body).await?)
}

async fn set(client: &Client, args: SetArgs) -> Result<User, Failure> {
    let id = resolve::<User>(client, &args.user).await?;
    let DetailArgs { role, email, oidc_subject, custom_role } = args.details;
    let custom_role_ids = if custom_role.is_empty() {
        args.no_custom_roles.then(Vec::new)
    } else {
        let tenant = client.read::<User>(id).await?.tenant_id;
        Some(resolve_in::<CustomRole>(client, Some(tenant), &custom_role).await?)
    };
    let patch = PatchUser {
        name: args.name,
        email: email.map(Some).or(args.no_email.then_some(None)),
        role,
        custom_role_ids,
        oidc_subject: oidc_subject.map(Some).or(args.no_oidc_subject.then_some(None)),
        status: args.status.wanted(),
    };
    Ok(client.patch::<User>(id, &patch).await?)
}

/// The server replaces what is granted as a whole, so the new whole is made from the present one.
async fn change_permissions(
    client: &Client,
    user: &str,
    change: impl FnOnce(&[Permission]) -> Vec<Permission>,
) -> Result<User, Failure> {
    let id = resolve::<User>(client, user).await?;
    let granted = client.read::<User>(id).await?.module_permissions;
    Ok(client.set_permissions(id, change(&granted)).await?)
}
