//! What stands before every handler, and what is noted behind it: who calls, how often, whether
//! they may, and what came of it.

use std::{net::IpAddr, sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use scaibunker_api::{audit::AuditEntry, error::ErrorCode, ids::EventId};

use super::{
    actor::{authenticate, credential, worker_only},
    answer::MadeId,
    client_ip::client_ip,
    fault::Fault,
    request_context::current_request_id,
    route::{Access, RouteInfo},
};
use crate::{app::App, audit::Audit, domain::actor::Actor, limits::Allowance};

const LIMIT: HeaderName = HeaderName::from_static("x-scaigrid-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-scaigrid-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-scaigrid-ratelimit-reset");

/// Status in the audit log of a call whose client went away before it was answered.
const CUT_OFF: u16 = 499;

/// A route's guard.
#[derive(Clone)]
pub(super) struct Guard {
    pub app: Arc<App>,
    pub route: Arc<RouteInfo>,
}

/// What the guard learns of a request before its handler runs.
struct Caller {
    ip: IpAddr,
    actor: Option<Actor>,
    allowance: Option<Allowance>,
    /// Whether there were too many refusals already for one more in the audit log.
    is_flood: bool,
}

/// Lets a request through to its handler, or answers it.
pub(super) async fn pass(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let Guard { app, route } = &guard;
    let ip = client_ip(request.extensions(), request.headers(), &app.trusted_proxies);
    let mut caller = Caller { ip, actor: None, allowance: None, is_flood: false };
    let admitted = guard.admit(request.headers(), &mut caller).await;
    let is_noted = route.is_audited && !caller.is_flood;
    let noted = is_noted.then(|| Noted::new(&app.audit, route, &caller, request.uri().path()));
    if let Some(actor) = caller.actor {
        request.extensions_mut().insert(actor);
    }
    let mut response = match admitted {
        Ok(()) => next.run(request).await,
        Err(fault) => fault.into_response(),
    };
    if let Some(entry) = noted.and_then(|noted| noted.settle(&response)) {
        app.audit.record(entry).await;
    }
    if let Some(allowance) = caller.allowance {
        show(allowance, &mut response);
    }
    app.metrics.count_answer(route.operation, response.status().as_u16(), began.elapsed());
    response
}

/// An entry of the audit log, written even if the client goes away before it is answered: what it
/// began may have been done.
struct Noted<'a> {
    audit: &'a Audit,
    entry: Option<AuditEntry>,
}

impl<'a> Noted<'a> {
    fn new(audit: &'a Audit, route: &RouteInfo, caller: &Caller, path: &str) -> Self {
        let actor = caller.actor.as_ref();
        let entry = AuditEntry {
            id: EventId::generate(),
            at: Timestamp::now(),
            request_id: current_request_id(),
            actor_id: actor.map(|actor| actor.user_id),
            api_key_id: actor.and_then(|actor| actor.api_key_id),
            tenant_id: actor.map(|actor| actor.tenant_id),
            action: route.operation.to_owned(),
            resource_id: route.id_in(path).map(str::to_owned),
            ip: caller.ip,
            status: CUT_OFF,
            error: None,
        };
        Self { audit, entry: Some(entry) }
    }

    /// The entry with the answer in it.
    fn settle(mut self, response: &Response) -> Option<AuditEntry> {
        let mut entry = self.entry.take()?;
        let extensions = response.extensions();
        entry.status = response.status().as_u16();
        entry.error = extensions.get::<ErrorCode>().copied();
        if entry.resource_id.is_none() {
            entry.resource_id = extensions.get::<MadeId>().map(|MadeId(id)| id.clone());
        }
        Some(entry)
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.audit.record_later(entry);
        }
    }
}

impl Guard {
    async fn admit(&self, headers: &HeaderMap, caller: &mut Caller) -> Result<(), Fault> {
        let recognised = self.recognise(headers).await;
        let actor = match recognised {
            Ok(Some(actor)) => actor,
            Ok(None) => return Ok(()),
            Err(fault) => return Err(self.of_stranger(fault, caller).await),
        };
        let admission = self.app.limits.admit(&actor).await;
        caller.allowance = admission.allowance;
        if let Some(refusal) = admission.refusal {
            caller.is_flood = !self.app.limits.is_recorded(&actor).await;
            caller.actor = Some(actor);
            return Err(refusal.into());
        }
        let actor = caller.actor.insert(actor);
        permit(actor, self.route.access)
    }

    /// The actor, if the route has one.
    async fn recognise(&self, headers: &HeaderMap) -> Result<Option<Actor>, Fault> {
        let Self { app, route } = self;
        if route.access == Access::Worker {
            return worker_only(app, headers).map(|()| None);
        }
        if !route.access.is_by_actor() {
            return Ok(None);
        }
        let credential = credential(headers, route.is_websocket)?;
        authenticate(app, credential).await.map(Some)
    }

    /// Who keeps failing is not written down any more.
    async fn of_stranger(&self, fault: Fault, caller: &mut Caller) -> Fault {
        if fault.0.code != ErrorCode::Unauthorized {
            return fault;
        }
        match self.app.limits.refuse_stranger(caller.ip).await {
            Some(refusal) => {
                caller.is_flood = true;
                refusal.into()
            }
            None => fault,
        }
    }
}

fn permit(actor: &Actor, access: Access) -> Result<(), Fault> {
    match access {
        Access::Public
        | Access::Worker
        | Access::Proxy
        | Access::Authenticated
        | Access::AfterBody(_) => {}
        Access::Needs(permission) => actor.require(permission)?,
        Access::Reads(permission) => actor.require_read(permission)?,
        Access::Platform(permission) => actor.require_platform(permission)?,
    }
    Ok(())
}

fn show(allowance: Allowance, response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(LIMIT, HeaderValue::from(allowance.limit));
    headers.insert(REMAINING, HeaderValue::from(allowance.remaining));
    headers.insert(RESET, HeaderValue::from(allowance.reset_at));
}

#[cfg(test)]
mod tests {
    use scaibunker_api::permission::Permission;

    use super::*;
    use crate::domain::actor::{Reach, tests::actor};

    #[test]
    fn access_is_what_the_table_says() {
        let permission = Permission::Admin;
        let nobody = actor(&[]);
        let viewer = Actor { is_viewer: true, ..actor(&[]) };
        let holder = actor(&[permission]);
        let of_platform = Actor { reach: Reach::Platform, ..actor(&[permission]) };
        for (access, admitted) in [
            (Access::Authenticated, [true, true, true, true]),
            (Access::AfterBody(permission), [true, true, true, true]),
            (Access::Needs(permission), [false, false, true, true]),
            (Access::Reads(permission), [false, true, true, true]),
            (Access::Platform(permission), [false, false, false, true]),
        ] {
            for (actor, is_admitted) in
                [&nobody, &viewer, &holder, &of_platform].into_iter().zip(admitted)
            {
                assert_eq!(permit(actor, access).is_ok(), is_admitted, "{access:?} {actor:?}");
            }
        }
    }
}
