//! What stands before every handler: who calls, and whether they may.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    actor::{authenticate, credential, worker_only},
    fault::Fault,
    route::{Access, RouteInfo},
};
use crate::{app::App, domain::actor::Actor};

/// A route's guard.
#[derive(Clone)]
pub(super) struct Guard {
    pub app: Arc<App>,
    pub route: Arc<RouteInfo>,
}

/// Lets a request through to its handler, or answers it.
pub(super) async fn pass(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    match guard.admit(&mut request).await {
        Ok(()) => next.run(request).await,
        Err(fault) => fault.into_response(),
    }
}

impl Guard {
    async fn admit(&self, request: &mut Request) -> Result<(), Fault> {
        let Self { app, route } = self;
        if route.access == Access::Worker {
            return worker_only(app, request.headers());
        }
        if route.access.is_by_actor() {
            let credential = credential(request.headers(), route.is_websocket)?;
            let actor = authenticate(app, credential).await?;
            permit(&actor, route.access)?;
            request.extensions_mut().insert(actor);
        }
        Ok(())
    }
}

fn permit(actor: &Actor, access: Access) -> Result<(), Fault> {
    Ok(match access {
        Access::Public
        | Access::Worker
        | Access::Proxy
        | Access::Authenticated
        | Access::AfterBody(_) => {}
        Access::Needs(permission) => actor.require(permission)?,
        Access::Reads(permission) => actor.require_read(permission)?,
        Access::Platform(permission) => actor.require_platform(permission)?,
    })
}
