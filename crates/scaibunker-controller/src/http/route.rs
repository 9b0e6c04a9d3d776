//! What a route is: where it is, who may call it, what it takes and answers.

use std::sync::Arc;

use axum::{
    handler::Handler,
    http::Method,
    routing::{MethodFilter, MethodRouter, on},
};
use scaibunker_api::{error::ErrorCode, permission::Permission};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use crate::app::App;

/// Who may call a route. It is enforced before the handler runs, and before a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Public,
    /// Holders of the worker token.
    Worker,
    /// The storage proxy judges for itself: worker token or signed URL.
    Proxy,
    /// Every known caller; the service shows each what it may see.
    Authenticated,
    Needs(Permission),
    /// Viewers too.
    Reads(Permission),
    /// Only with a reach of the whole platform.
    Platform(Permission),
    /// The contract has the body checked before the permission, so the service does both.
    AfterBody(Permission),
}

impl Access {
    /// What a caller must be granted.
    pub(super) fn permission(self) -> Option<Permission> {
        match self {
            Self::Public | Self::Worker | Self::Proxy | Self::Authenticated => None,
            Self::Needs(permission)
            | Self::Reads(permission)
            | Self::Platform(permission)
            | Self::AfterBody(permission) => Some(permission),
        }
    }

    /// Whether there is an actor.
    pub(super) fn is_by_actor(self) -> bool {
        self == Self::Authenticated || self.permission().is_some()
    }
}

/// Writes a type's schema.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// A reference to the type's schema among the components, or the schema itself if it is small.
pub(super) fn reference<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The schema itself.
fn inline<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}

/// What an answer holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    /// One object in the envelope.
    Data(SchemaOf),
    /// A page of objects.
    Page(SchemaOf),
    Nothing,
    /// Bytes of this media type.
    Bytes(&'static str),
    /// Server-sent events.
    Events,
    /// The connection is another protocol's from here on.
    Upgrade,
    /// A JSON document of its own.
    Document,
}

/// What a request's body holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body {
    Json(SchemaOf),
    Bytes,
}

/// Everything about a route but its handler.
#[derive(Debug)]
pub(super) struct RouteInfo {
    pub method: Method,
    /// With `{name}` for a parameter and `{*name}` for the rest of the path.
    pub path: &'static str,
    /// `verb_resource`.
    pub operation: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Under which heading the documentation has it.
    pub tag: &'static str,
    pub access: Access,
    /// Whether a call belongs into the audit log.
    pub is_audited: bool,
    /// Whether browsers may send the credential as a subprotocol.
    pub is_websocket: bool,
    /// Whether an `Idempotency-Key` is taken.
    pub takes_key: bool,
    pub params: Vec<(&'static str, SchemaOf)>,
    pub query: Option<SchemaOf>,
    pub body: Option<Body>,
    /// A JSON body that makes sense.
    pub example: Option<Value>,
    /// By HTTP status.
    pub answers: Vec<(u16, Content)>,
    /// What the route fails with beside what all of its kind do.
    pub errors: Vec<ErrorCode>,
}

impl RouteInfo {
    /// What the path names first, as it was sent, if that can be an id.
    pub(super) fn id_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        let place = self.path.split('/').position(|segment| segment == "{id}")?;
        let id = path.split('/').nth(place)?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        (id.len() <= 40 && id.bytes().all(is_plain)).then_some(id)
    }
}

/// A function for each method that makes a route of a handler.
macro_rules! routes_of {
    ($($(#[$doc:meta])* $name:ident = $method:ident;)*) => {$(
        $(#[$doc])*
        pub(super) fn $name<H: Handler<T, Arc<App>>, T: 'static>(
            path: &'static str,
            operation: &'static str,
            summary: &'static str,
            access: Access,
            handler: H,
        ) -> Self {
            let handler = Some(on(MethodFilter::$method, handler));
            Self { handler, ..Self::new(Method::$method, path, operation, summary, access) }
        }
    )*};
}

/// A route.
pub(super) struct Route {
    pub info: RouteInfo,
    /// Other paths that lead here.
    pub aliases: Vec<&'static str>,
    /// `None`: what is mounted beside the table serves it.
    pub handler: Option<MethodRouter<Arc<App>>>,
}

impl Route {
    fn new(
        method: Method,
        path: &'static str,
        operation: &'static str,
        summary: &'static str,
        access: Access,
    ) -> Self {
        let info = RouteInfo {
            is_audited: method != Method::GET,
            method,
            path,
            operation,
            summary,
            tag: "",
            access,
            is_websocket: false,
            takes_key: false,
            params: Vec::new(),
            query: None,
            body: None,
            example: None,
            answers: Vec::new(),
            errors: Vec::new(),
        };
        Self { info, aliases: Vec::new(), handler: None }
    }

    /// A route that something beside the table serves.
    pub(super) fn elsewhere(
        method: Method,
        path: &'static str,
        operation: &'static str,
        summary: &'static str,
        access: Access,
    ) -> Self {
        Self::new(method, path, operation, summary, access).unaudited()
    }

    routes_of! {
        /// A `GET`, and the `HEAD` that goes with it.
        get = GET;
        post = POST;
        put = PUT;
        patch = PATCH;
        delete = DELETE;
    }

    /// A parameter of the path.
    pub(super) fn param<T: JsonSchema>(mut self, name: &'static str) -> Self {
        self.info.params.push((name, inline::<T>));
        self
    }

    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.info.query = Some(inline::<T>);
        self
    }

    pub(super) fn body<T: JsonSchema>(mut self) -> Self {
        self.info.body = Some(Body::Json(reference::<T>));
        self
    }

    /// A JSON body that makes sense.
    pub(super) fn example(mut self, body: Value) -> Self {
        self.info.example = Some(body);
        self
    }

    pub(super) fn bytes_body(mut self) -> Self {
        self.info.body = Some(Body::Bytes);
        self
    }

    /// One object in the envelope.
    pub(super) fn answers<T: JsonSchema>(self, status: u16) -> Self {
        self.with_answer(status, Content::Data(reference::<T>))
    }

    /// A page of objects.
    pub(super) fn lists<T: JsonSchema>(self) -> Self {
        self.with_answer(200, Content::Page(reference::<T>))
    }

    pub(super) fn with_answer(mut self, status: u16, content: Content) -> Self {
        self.info.answers.push((status, content));
        self
    }

    /// What the route fails with beside what all of its kind do.
    pub(super) fn fails(mut self, codes: &[ErrorCode]) -> Self {
        self.info.errors.extend(codes);
        self
    }

    pub(super) fn with_idempotency(mut self) -> Self {
        self.info.takes_key = true;
        self
    }

    pub(super) fn audited(mut self) -> Self {
        self.info.is_audited = true;
        self
    }

    pub(super) fn unaudited(mut self) -> Self {
        self.info.is_audited = false;
        self
    }

    pub(super) fn websocket(mut self) -> Self {
        self.info.is_websocket = true;
        self.with_answer(101, Content::Upgrade)
    }

    pub(super) fn also_at(mut self, paths: &[&'static str]) -> Self {
        self.aliases.extend(paths);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_path_is_what_the_template_says() {
        let route = Route::elsewhere(Method::GET, "/v1/a/{id}/b/{*path}", "x", "", Access::Public);
        assert_eq!(route.info.id_in("/v1/a/usr_1/b/c/d"), Some("usr_1"));
        for path in ["/v1/a/%41/b/c", "/v1/a", "/v1/a/x\"y/b"] {
            assert_eq!(route.info.id_in(path), None, "{path}");
        }
        let without = Route::elsewhere(Method::GET, "/v1/a", "x", "", Access::Public);
        assert_eq!(without.info.id_in("/v1/a"), None);
    }
}
