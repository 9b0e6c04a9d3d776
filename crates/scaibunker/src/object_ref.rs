//! Tenants, users and the like as people name them: by id or by name.

use std::fmt::Display;

use scaibunker_api::ids::TenantId;

use crate::{
    client::{Client, ClientError, Object},
    exit::Failure,
};

/// Why a text names no object.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum RefError {
    #[error(
        "no {kind} that you see has the id or name `{text}`; `scaibunker {list}` shows those there are"
    )]
    NoneFound { kind: &'static str, list: &'static str, text: String },
    #[error("`{text}` is the name of more than one {kind}, give the id: {}", candidates.join(", "))]
    Ambiguous { kind: &'static str, text: String, candidates: Vec<String> },
}

/// The object that `text` names. An id is taken as it is: the server knows whether it exists.
pub async fn resolve<O: Object>(client: &Client, text: &str) -> Result<O::Id, Failure> {
    match text.parse() {
        Ok(id) => Ok(id),
        Err(_) => pick(text, &client.list::<O>().await?),
    }
}

/// The same for an object that need not be named.
pub async fn resolve_some<O: Object>(
    client: &Client,
    text: Option<&str>,
) -> Result<Option<O::Id>, Failure> {
    match text {
        Some(text) => resolve::<O>(client, text).await.map(Some),
        None => Ok(None),
    }
}

/// The objects that `texts` name, each once, in their order; listed at most once.
pub async fn resolve_all<O: Object>(
    client: &Client,
    texts: &[String],
) -> Result<Vec<O::Id>, Failure> {
    resolve_among(texts, client.list::<O>()).await
}

/// The same among those of one tenant, the caller's own unless given: a name that many tenants
/// use names one object in each.
pub async fn resolve_in<O: Object>(
    client: &Client,
    tenant: Option<TenantId>,
    texts: &[String],
) -> Result<Vec<O::Id>, Failure> {
    let list = async {
        let tenant = match tenant {
            Some(tenant) => tenant,
            None => client.me().await?.tenant.id,
        };
        client.list_where::<O>("tenant_id", tenant).await
    };
    resolve_among(texts, list).await
}

/// `list` is only waited for if some text is no id.
async fn resolve_among<O: Object>(
    texts: &[String],
    list: impl Future<Output = Result<Vec<O>, ClientError>>,
) -> Result<Vec<O::Id>, Failure> {
    let is_name = |text: &String| text.parse::<O::Id>().is_err();
    let listed = if texts.iter().any(is_name) { list.await? } else { Vec::new() };
    let mut ids = Vec::new();
    for text in texts {
        let id = match text.parse() {
            Ok(id) => id,
            Err(_) => pick(text, &listed)?,
        };
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn pick<O: Object>(text: &str, objects: &[O]) -> Result<O::Id, Failure> {
    let found: Vec<_> = objects.iter().filter(|object| object.is_called(text)).map(O::id).collect();
    let [id] = found.as_slice() else {
        return Err(Failure::Error(refused::<O>(text, &found).into()));
    };
    Ok(*id)
}

fn refused<O: Object>(text: &str, found: &[impl Display]) -> RefError {
    let (kind, text) = (O::KIND, text.to_owned());
    if found.is_empty() {
        return RefError::NoneFound { kind, list: O::LIST_COMMAND, text };
    }
    let candidates = found.iter().map(ToString::to_string).collect();
    RefError::Ambiguous { kind, text, candidates }
}
