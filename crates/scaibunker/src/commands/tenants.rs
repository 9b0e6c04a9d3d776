//! `scaibunker tenants`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use scaibunker_api::iam::{AccountStatus, CreateTenant, Partner, PatchTenant, Tenant};

use crate::{
    cli::GlobalArgs,
    exit::Failure,
    object_ref::{resolve, resolve_some},
    records, tables,
};

/// List, make and change tenants
#[derive(Debug, Args)]
pub struct TenantsArgs {
    #[command(subcommand)]
    what: Tenants,
}

#[derive(Debug, Subcommand)]
enum Tenants {
    /// List the tenants you see, newest first; with --quiet only their ids
    Ls {
        /// Only this partner's
        #[arg(long)]
        partner: Option<String>,
    },
    /// Make a tenant and print its id
    Create {
        name: String,
        /// Whose it is to be [default: your tenant's partner]
        #[arg(long)]
        partner: Option<String>,
    },
    /// Show a tenant
    Show {
        /// Id or name
        tenant: String,
    },
    /// Change a tenant
    Set {
        /// Id or name
        tenant: String,
        /// Its new name
        #[arg(long, required_unless_present_any = ["suspend", "activate"])]
        name: Option<String>,
        #[command(flatten)]
        status: StatusArgs,
    },
    /// Delete tenants that hold nothing any more, and print their ids
    Rm {
        /// Id or name
        #[arg(value_name = "TENANT", required = true)]
        tenants: Vec<String>,
    },
}

/// Whether credentials are to be accepted.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Refuse its credentials from now on
    #[arg(long)]
    suspend: bool,
    /// Accept its credentials again
    #[arg(long, conflicts_with = "suspend")]
    activate: bool,
}

impl StatusArgs {
    /// The status asked for, if one was.
    pub fn wanted(&self) -> Option<AccountStatus> {
        match (self.suspend, self.activate) {
            (true, _) => Some(AccountStatus::Suspended),
            (false, true) => Some(AccountStatus::Active),
            (false, false) => None,
        }
    }
}

pub async fn run(global: &GlobalArgs, args: TenantsArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    match args.what {
        Tenants::Ls { partner } => {
            let tenants = match resolve_some::<Partner>(&client, partner.as_deref()).await? {
                Some(partner) => client.list_where("partner_id", partner).await?,
                None => client.list().await?,
            };
            records::list(output, &tenants, |all| tables::tenants(all, Timestamp::now()))
        }
        Tenants::Create { name, partner } => {
            let partner_id = resolve_some::<Partner>(&client, partner.as_deref()).await?;
            let made = client.create::<Tenant>(&CreateTenant { name, partner_id }).await?;
            records::made(output, &made)
        }
        Tenants::Show { tenant } => {
            let id = resolve::<Tenant>(&client, &tenant).await?;
            records::one(output, &client.read::<Tenant>(id).await?, tables::tenant)
        }
        Tenants::Set { tenant, name, status } => {
            let id = resolve::<Tenant>(&client, &tenant).await?;
            let patch = PatchTenant { name, status: status.wanted() };
            records::one(output, &client.patch::<Tenant>(id, &patch).await?, tables::tenant)
        }
        Tenants::Rm { tenants } => records::remove::<Tenant>(&client, output, &tenants).await,
    }
}
