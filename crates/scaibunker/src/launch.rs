//! Making a bunker for one purpose, so that none is left when the purpose is gone.

use std::{pin::pin, time::Duration};

use anyhow::anyhow;
use scaibunker_api::{
    bunker::{Bunker, BunkerStatus, CreateBunker},
    envelope::Envelope,
    ids::{BunkerId, RequestId},
};

use crate::{
    client::{Client, ClientError},
    exit::{self, Failure},
    output::Output,
    signals::Stop,
};

/// How long the end of a bunker may take to be accepted.
const DISCARD_LIMIT: Duration = Duration::from_secs(15);

/// Creates a bunker and returns it once it runs; a bunker that doesn't is removed.
///
/// When the program is asked to stop, the server's answer is still waited for: only it names the
/// bunker that has to be removed.
pub async fn launch(
    client: &Client,
    request: &CreateBunker,
    output: Output,
    stop: &Stop,
) -> Result<Bunker, Failure> {
    let progress = output.progress(&format!("starting a bunker from {}", request.image));
    let mut created = pin!(client.create_bunker(request, true));
    let answer = tokio::select! {
        answer = &mut created => answer,
        _ = stop.requested() => {
            progress.say("waiting for the bunker, to remove it");
            created.await
        }
    };
    if let Some(signal) = stop.signal() {
        if let Ok(created) = answer {
            discard(client, created.data.id).await;
        }
        return Err(Failure::Stopped(signal));
    }
    let Envelope { data: bunker, meta, .. } = answer?;
    if bunker.status != BunkerStatus::Running {
        discard(client, bunker.id).await;
        return Err(Failure::Error(anyhow!(not_running(&bunker, meta.request_id))));
    }
    Ok(bunker)
}

/// What a create that brought no running bunker has to say.
fn not_running(bunker: &Bunker, request_id: RequestId) -> String {
    let (id, status) = (bunker.id, bunker.status.as_str());
    match &bunker.status_reason {
        Some(reason) => format!("the bunker {id} is {status}: {reason} [{request_id}]"),
        None => {
            format!("the bunker {id} is still {status}; the server took too long [{request_id}]")
        }
    }
}

/// Asks for the bunker's end. A failure is told and goes no further: what the bunker was made for
/// matters more than what is left of it.
pub async fn discard(client: &Client, id: BunkerId) {
    let reason = match tokio::time::timeout(DISCARD_LIMIT, client.delete_bunker(id)).await {
        Ok(Ok(())) => return,
        Ok(Err(ClientError::Refused(refusal))) if refusal.is_gone() => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", DISCARD_LIMIT.as_secs()),
    };
    let message = format!("cannot remove the bunker {id}: {reason}; try `scaibunker rm {id}`");
    exit::report(exit::FAILED, &message);
}
