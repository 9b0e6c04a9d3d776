//! `scaibunker keys`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use scaibunker_api::iam::{ApiKey, CreateApiKey, Tenant, User};

use crate::{
    cli::GlobalArgs,
    client::Client,
    exit::Failure,
    object_ref::{resolve, resolve_some},
    output::Output,
    quantity::{self, Moment},
    records, tables,
};

/// List, make and revoke API keys
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    what: Keys,
}

#[derive(Debug, Subcommand)]
enum Keys {
    /// List the keys you see, newest first; with --quiet only their ids
    Ls {
        /// Only this user's
        #[arg(long)]
        user: Option<String>,
        /// Only those of this tenant's users
        #[arg(long, conflicts_with = "user")]
        tenant: Option<String>,
    },
    Create(CreateArgs),
    /// Revoke keys; they stop working within seconds
    Rm {
        /// Id or name of a key
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
}

/// Make a key and print it, this once
///
/// The key goes to standard output, everything else about it to standard error.
#[derive(Debug, Args)]
struct CreateArgs {
    /// What it is for
    name: String,
    /// Whose it is to be [default: yours]
    #[arg(long)]
    user: Option<String>,
    /// When it ends, such as 30d, 12h or 2026-12-31T00:00:00Z [default: never]
    #[arg(long, value_name = "TIME", value_parser = quantity::moment)]
    expires: Option<Moment>,
}

pub async fn run(global: &GlobalArgs, args: KeysArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    match args.what {
        Keys::Ls { user, tenant } => {
            let keys = match (user, tenant) {
                (Some(user), _) => {
                    client.list_where("user_id", resolve::<User>(&client, &user).await?).await?
                }
                (None, Some(tenant)) => {
                    let tenant = resolve::<Tenant>(&client, &tenant).await?;
                    client.list_where("tenant_id", tenant).await?
                }
                (None, None) => client.list().await?,
            };
            records::list(output, &keys, |keys| tables::api_keys(keys, Timestamp::now()))
        }
        Keys::Create(args) => create(&client, output, args).await,
        Keys::Rm { keys } => records::remove::<ApiKey>(&client, output, &keys).await,
    }
}

async fn create(client: &Client, output: Output, args: CreateArgs) -> Result<(), Failure> {
    let expires_at = args.expires.map(|moment| moment.after(Timestamp::now())).transpose()?;
    let user_id = resolve_some::<User>(client, args.user.as_deref()).await?;
    let made =
        client.create_api_key(&CreateApiKey { name: args.name, user_id, expires_at }).await?;
    if output.is_json() {
        return output.document(&made);
    }
    let record = &made.record;
    let end = match record.expires_at {
        Some(at) => format!("ends at {at}"),
        None => "never ends".to_owned(),
    };
    output.note(&format!(
        "{} ({}) of {} {end}; the key is shown this once:",
        record.name, record.id, record.user_id
    ));
    // A key that the answer lacks was given to whoever asked first.
    made.key.as_deref().map_or(Ok(()), |key| output.line(key))
}
