//! Whom a quota profile is assigned to.

use anyhow::anyhow;
use clap::{ArgGroup, Args};
use jiff::Timestamp;
use scaibunker_api::{
    iam::{Group, Tenant, User},
    ids::QuotaAssignmentId,
    quota::{AssignmentMode, CreateAssignment, QuotaProfile, TargetKind},
};

use crate::{client::Client, exit::Failure, object_ref::resolve, output::Output, tables};

/// Assign a quota profile to a user, a group or a whole tenant, and print the assignment's id
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("to_whom").args(["user", "group", "tenant"]).required(true)))]
pub struct AssignArgs {
    /// Id or name
    profile: String,
    #[command(flatten)]
    target: TargetArgs,
    /// Give each member of the group the caps alone, in place of all of them together
    #[arg(long, conflicts_with_all = ["user", "tenant"])]
    per_user: bool,
}

/// End the assignment of a quota profile
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").args(["assignment", "user", "group", "tenant"]).required(true)))]
pub struct UnassignArgs {
    /// Id or name
    profile: String,
    /// The assignment, see `scaibunker quota assignments`
    assignment: Option<QuotaAssignmentId>,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Args)]
struct TargetArgs {
    /// Id, name or email
    #[arg(long)]
    user: Option<String>,
    /// Id or name
    #[arg(long)]
    group: Option<String>,
    /// Id or name
    #[arg(long)]
    tenant: Option<String>,
}

impl TargetArgs {
    async fn resolve(&self, client: &Client) -> Result<(TargetKind, String), Failure> {
        Ok(match (&self.user, &self.group, &self.tenant) {
            (Some(user), ..) => {
                (TargetKind::User, resolve::<User>(client, user).await?.to_string())
            }
            (_, Some(group), _) => {
                (TargetKind::Group, resolve::<Group>(client, group).await?.to_string())
            }
            (.., Some(tenant)) => {
                (TargetKind::Tenant, resolve::<Tenant>(client, tenant).await?.to_string())
            }
            // The parser asks for one of them.
            (None, None, None) => return Err(anyhow!("give --user, --group or --tenant").into()),
        })
    }
}

pub async fn assign(client: &Client, output: Output, args: AssignArgs) -> Result<(), Failure> {
    let profile = resolve::<QuotaProfile>(client, &args.profile).await?;
    let (target_kind, target_id) = args.target.resolve(client).await?;
    let mode = args.per_user.then_some(AssignmentMode::PerUser);
    let body = CreateAssignment { target_kind, target_id, mode };
    let made = client.assign(profile, &body).await?;
    if output.is_json() { output.document(&made) } else { output.ids([made.id]) }
}

pub async fn unassign(client: &Client, output: Output, args: UnassignArgs) -> Result<(), Failure> {
    let profile = resolve::<QuotaProfile>(client, &args.profile).await?;
    let assignment = match args.assignment {
        Some(id) => id,
        None => {
            let (kind, id) = args.target.resolve(client).await?;
            let assignments = client.assignments(profile).await?;
            let found = assignments
                .iter()
                .find(|assignment| (assignment.target_kind, &assignment.target_id) == (kind, &id));
            found.map(|assignment| assignment.id).ok_or_else(|| {
                anyhow!(
                    "{} is not assigned to {id}; `scaibunker quota assignments` shows to whom it is",
                    args.profile
                )
            })?
        }
    };
    client.unassign(profile, assignment).await?;
    if output.is_json() { output.document(&[assignment]) } else { output.ids([assignment]) }
}

pub async fn list(client: &Client, output: Output, profile: &str) -> Result<(), Failure> {
    let profile = resolve::<QuotaProfile>(client, profile).await?;
    let assignments = client.assignments(profile).await?;
    if output.is_json() {
        return output.document(&assignments);
    }
    if output.is_quiet() {
        return output.ids(assignments.iter().map(|assignment| assignment.id));
    }
    output.table(&tables::assignments(&assignments, Timestamp::now()))
}
