//! `scaibunker audit`

use std::pin::pin;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use scaibunker_api::iam::{Tenant, User};

use crate::{
    cli::GlobalArgs,
    client::{AuditQuery, Client},
    exit::Failure,
    object_ref::resolve_some,
    output::Output,
    quantity::{self, Moment},
    signals::Stop,
    tables,
};

/// Show the calls that changed something, or were to, newest first
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AuditArgs {
    #[command(subcommand)]
    what: Option<Audit>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Entries to show at most
    #[arg(long, value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Debug, Subcommand)]
enum Audit {
    /// Write all entries to standard output
    Export {
        /// How they are written: one JSON object a line, one JSON array, or a table with a header
        #[arg(long, value_enum, default_value_t = Format::Ndjson)]
        format: Format,
        #[command(flatten)]
        filter: FilterArgs,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Csv,
    Json,
    Ndjson,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Outcome {
    Ok,
    Refused,
}

/// Which entries are meant.
#[derive(Debug, Args)]
struct FilterArgs {
    /// From then on: a time such as 2026-12-31T00:00:00Z, or how long ago, such as 1h or 30d
    #[arg(long, value_name = "TIME", value_parser = quantity::moment)]
    since: Option<Moment>,
    /// Before then
    #[arg(long, value_name = "TIME", value_parser = quantity::moment)]
    until: Option<Moment>,
    /// Who called: id, name or email of a user
    #[arg(long, value_name = "USER")]
    actor: Option<String>,
    /// What was asked for, such as create_bunker
    #[arg(long)]
    action: Option<String>,
    /// Id of what the call was about
    #[arg(long, value_name = "ID")]
    resource: Option<String>,
    /// How it ended
    #[arg(long, value_enum)]
    status: Option<Outcome>,
    /// Of callers in this tenant: id or name
    #[arg(long)]
    tenant: Option<String>,
}

impl FilterArgs {
    async fn into_query(self, client: &Client) -> Result<AuditQuery, Failure> {
        let now = Timestamp::now();
        let time = |moment: Option<Moment>| moment.map(|moment| moment.before(now)).transpose();
        Ok(AuditQuery {
            since: time(self.since)?,
            until: time(self.until)?,
            tenant_id: resolve_some::<Tenant>(client, self.tenant.as_deref()).await?,
            actor_id: resolve_some::<User>(client, self.actor.as_deref()).await?,
            action: self.action,
            resource_id: self.resource,
            status: self.status.map(|outcome| match outcome {
                Outcome::Ok => "ok",
                Outcome::Refused => "refused",
            }),
        })
    }
}

pub async fn run(global: &GlobalArgs, args: AuditArgs) -> Result<(), Failure> {
    let (client, output) = (global.client()?, global.output());
    if let Some(Audit::Export { format, filter }) = args.what {
        let query = filter.into_query(&client).await?;
        return export(&client, output, &query, format).await;
    }
    let query = args.filter.into_query(&client).await?;
    let at_most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let entries = client.audit_entries(&query, at_most).await?;
    if output.is_json() {
        return output.document(&entries);
    }
    if output.is_quiet() {
        return output.ids(entries.iter().map(|entry| entry.id));
    }
    output.table(&tables::audit_entries(&entries))
}

async fn export(
    client: &Client,
    output: Output,
    query: &AuditQuery,
    format: Format,
) -> Result<(), Failure> {
    let stop = Stop::listen().context("cannot listen for signals")?;
    let format = match format {
        Format::Csv => "csv",
        Format::Json => "json",
        Format::Ndjson => "ndjson",
    };
    let written = async {
        let mut pieces = pin!(client.export_audit_log(query, format).await?.into_stream());
        while let Some(piece) = pieces.next().await {
            output.data(&piece.context("the export is incomplete")?)?;
        }
        Ok(())
    };
    tokio::select! {
        signal = stop.requested() => Err(Failure::Stopped(signal)),
        written = written => written,
    }
}
