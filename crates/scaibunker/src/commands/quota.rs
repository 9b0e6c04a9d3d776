//! `scaibunker quota`

mod assignments;
mod caps;

use clap::{ArgGroup, Args, Subcommand};
use jiff::Timestamp;
use scaibunker_api::{
    iam::Tenant,
    quota::{CreateQuotaProfile, PatchQuotaProfile, QuotaProfile},
};

use self::{
    assignments::{AssignArgs, UnassignArgs},
    caps::CapArgs,
};
use crate::{
    bar,
    cli::GlobalArgs,
    client::Client,
    exit::Failure,
    object_ref::{resolve, resolve_some},
    output::Output,
    records, tables,
};

/// Show what you use of your quotas; list, make, change and assign quota profiles
#[derive(Debug, Args)]
pub struct QuotaArgs {
    #[command(subcommand)]
    what: Option<Quota>,
}

#[derive(Debug, Subcommand)]
enum Quota {
    /// Show what is used of each profile that applies to you (so does plain `quota`)
    Usage,
    /// List quota profiles, newest first; with --quiet only their ids
    Profiles {
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Show a quota profile
    Show {
        /// Id or name
        profile: String,
    },
    /// Make a quota profile and print its id
    Create(CreateArgs),
    /// Change a quota profile, for all it is assigned to
    Set(SetArgs),
    /// Delete quota profiles that are assigned to nobody, and print their ids
    Rm {
        /// Id or name
        #[arg(value_name = "PROFILE", required = true)]
        profiles: Vec<String>,
    },
    Assign(AssignArgs),
    Unassign(UnassignArgs),
    /// List whom a quota profile is assigned to; with --quiet only the assignments' ids
    Assignments {
        /// Id or name
        profile: String,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    name: String,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whose it is to be [default: yours]
    #[arg(long, conflicts_with = "platform")]
    tenant: Option<String>,
    /// Make it one of the platform, which any tenant can use
    #[arg(long)]
    platform: bool,
    #[command(flatten)]
    caps: CapArgs,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "scaibunker quota set [OPTIONS] <PROFILE>",
    group(change(&["name", "description", "no_description"]))
)]
struct SetArgs {
    /// Id or name
    profile: String,
    /// Its new name
    #[arg(long)]
    name: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Take the description away
    #[arg(long, conflicts_with = "description")]
    no_description: bool,
    #[command(flatten)]
    caps: CapArgs,
}

/// Something has to be changed: one of `others`, or a cap.
fn change(others: &[&'static str]) -> ArgGroup {
    let args = others.iter().chain(CapArgs::FLAGS);
    ArgGroup::new("changes").args(args).required(true).multiple(true)
}

pub async fn run(global: &GlobalArgs, args: QuotaArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    match args.what.unwrap_or(Quota::Usage) {
        Quota::Usage => usage(&client, output).await,
        Quota::Profiles { tenant } => {
            let profiles = match resolve_some::<Tenant>(&client, tenant.as_deref()).await? {
                Some(tenant) => client.list_where("tenant_id", tenant).await?,
                None => client.list().await?,
            };
            records::list(output, &profiles, |all| tables::quota_profiles(all, Timestamp::now()))
        }
        Quota::Show { profile } => {
            let id = resolve::<QuotaProfile>(&client, &profile).await?;
            records::one(output, &client.read(id).await?, tables::quota_profile)
        }
        Quota::Create(args) => create(&client, output, args).await,
        Quota::Set(args) => set(&client, output, args).await,
        Quota::Rm { profiles } => records::remove::<QuotaProfile>(&client, output, &profiles).await,
        Quota::Assign(args) => assignments::assign(&client, output, args).await,
        Quota::Unassign(args) => assignments::unassign(&client, output, args).await,
        Quota::Assignments { profile } => assignments::list(&client, output, &profile).await,
    }
}

async fn usage(client: &Client, output: Output) -> Result<(), Failure> {
    let usage = client.usage().await?;
    if output.is_json() {
        return output.document(&usage);
    }
    let style = bar::Style::of_environment();
    for (position, profile) in usage.iter().enumerate() {
        if position > 0 {
            output.line("")?;
        }
        output.line(&tables::usage_heading(profile))?;
        output.table(&tables::usage(profile, style))?;
    }
    Ok(())
}

async fn create(client: &Client, output: Output, args: CreateArgs) -> Result<(), Failure> {
    let mut body = CreateQuotaProfile {
        name: args.name,
        description: args.description,
        tenant_id: resolve_some::<Tenant>(client, args.tenant.as_deref()).await?,
        platform: args.platform,
        ..CreateQuotaProfile::default()
    };
    args.caps.fill(&mut body);
    records::made(output, &client.create::<QuotaProfile>(&body).await?)
}

async fn set(client: &Client, output: Output, args: SetArgs) -> Result<(), Failure> {
    let id = resolve::<QuotaProfile>(client, &args.profile).await?;
    let mut patch = PatchQuotaProfile {
        name: args.name,
        description: args.description.map(Some).or(args.no_description.then_some(None)),
        ..PatchQuotaProfile::default()
    };
    args.caps.change(&mut patch);
    let profile = client.patch::<QuotaProfile>(id, &patch).await?;
    records::one(output, &profile, tables::quota_profile)
}
