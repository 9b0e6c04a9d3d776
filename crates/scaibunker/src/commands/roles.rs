//! `scaibunker roles`, and permissions as arguments.

use clap::{
    Args, Subcommand,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use jiff::Timestamp;
use scaibunker_api::{
    iam::{CreateCustomRole, CustomRole, PatchCustomRole, Tenant},
    permission::Permission,
};

use crate::{
    cli::GlobalArgs,
    exit::Failure,
    object_ref::{resolve, resolve_some},
    records, tables,
};

/// What all permission keys begin with; it may be left out.
const PREFIX: &str = "scaibunker:";

/// Reads a permission key.
pub fn permission() -> impl TypedValueParser<Value = Permission> {
    let values = Permission::ALL.iter().map(|permission| {
        let key = permission.key();
        PossibleValue::new(key).alias(key.trim_start_matches(PREFIX))
    });
    PossibleValuesParser::new(values).try_map(|text| {
        Permission::from_key(&text)
            .or_else(|| Permission::from_key(&format!("{PREFIX}{text}")))
            .ok_or("it is no permission")
    })
}

/// List, make and change custom roles, which are sets of permissions
#[derive(Debug, Args)]
pub struct RolesArgs {
    #[command(subcommand)]
    what: Roles,
}

#[derive(Debug, Subcommand)]
enum Roles {
    /// List the custom roles you see, newest first; with --quiet only their ids
    Ls {
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Make a custom role and print its id
    Create {
        name: String,
        /// What its users may do; `scaibunker:` may be left out
        #[arg(value_name = "PERMISSION", required = true, hide_possible_values = true,
              value_parser = permission())]
        permissions: Vec<Permission>,
        /// Whose it is to be [default: yours]
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Change a custom role, for all who have it
    Set {
        /// Id or name
        role: String,
        /// Its new name
        #[arg(long, required_unless_present = "permissions")]
        name: Option<String>,
        /// What its users may do, in place of what they may now
        #[arg(value_name = "PERMISSION", hide_possible_values = true, value_parser = permission())]
        permissions: Vec<Permission>,
    },
    /// Delete custom roles that nobody has, and print their ids
    Rm {
        /// Id or name
        #[arg(value_name = "ROLE", required = true)]
        roles: Vec<String>,
    },
}

pub async fn run(global: &GlobalArgs, args: RolesArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    match args.what {
        Roles::Ls { tenant } => {
            let roles = match resolve_some::<Tenant>(&client, tenant.as_deref()).await? {
                Some(tenant) => client.list_where("tenant_id", tenant).await?,
                None => client.list().await?,
            };
            records::list(output, &roles, |all| tables::custom_roles(all, Timestamp::now()))
        }
        Roles::Create { name, permissions, tenant } => {
            let tenant_id = resolve_some::<Tenant>(&client, tenant.as_deref()).await?;
            let body = CreateCustomRole { name, module_permissions: permissions, tenant_id };
            records::made(output, &client.create::<CustomRole>(&body).await?)
        }
        Roles::Set { role, name, permissions } => {
            let id = resolve::<CustomRole>(&client, &role).await?;
            let module_permissions = (!permissions.is_empty()).then_some(permissions);
            let patch = PatchCustomRole { name, module_permissions };
            let role = client.patch::<CustomRole>(id, &patch).await?;
            records::one(output, &role, tables::custom_role)
        }
        Roles::Rm { roles } => records::remove::<CustomRole>(&client, output, &roles).await,
    }
}
