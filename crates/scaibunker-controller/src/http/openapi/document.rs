//! Writing the document.

use std::collections::{BTreeMap, BTreeSet};

use scaibunker_api::{
    envelope::Meta,
    error::{ErrorBody, ErrorCode},
};
use serde_json::{Map, Value, json};

use super::schemas::{Schemas, rename};
use crate::http::route::{Access, Body, Content, RouteInfo, reference};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// What the document says before it comes to the routes.
const ABOUT: &str = "Sandboxed compute: each bunker is a microVM of its own.\n\nEvery JSON answer is \
     in an envelope: `{\"status\":\"ok\",\"data\":…,\"meta\":{\"request_id\":…}}`, a failure is \
     `{\"status\":\"error\",\"error\":{\"code\",\"message\"},\"meta\":…}`. Branch on `code`; the \
     message names the cause and the next step. `x-permission` is what a caller must be granted.";

/// The OpenAPI 3.1 document of `routes`.
pub(in crate::http) fn document(routes: &[RouteInfo]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths: Map<String, Value> = Map::new();
    let mut bodies: Vec<(String, String, Value)> = Vec::new();
    for route in routes {
        let path = route.path.replace("{*", "{");
        let method = route.method.as_str().to_lowercase();
        if let Some(body) = body_of(route, &mut schemas) {
            bodies.push((path.clone(), method.clone(), body));
        }
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[method] = operation(route, &mut schemas);
    }
    let error = schemas.answered(reference::<ErrorBody>);
    let meta = schemas.answered(reference::<Meta>);
    let (mut components, renamed) = schemas.into_components();
    for (path, method, mut body) in bodies {
        rename(&mut body, &renamed);
        paths[&path][&method]["requestBody"] = body;
    }
    components.insert("ErrorEnvelope".to_owned(), envelope("error", "error", error, meta));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ScaiBunker",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": tags(routes),
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": headers(),
            "securitySchemes": {
                "caller": {
                    "type": "http", "scheme": "bearer",
                    "description": "An API key (`sgk_…`), or a token of the configured OIDC issuer.",
                },
                "worker": {
                    "type": "http", "scheme": "bearer",
                    "description": "The worker token, `SCAIBUNKER_WORKER_TOKEN`.",
                },
                "capability": {
                    "type": "http", "scheme": "bearer",
                    "description": "A token of `POST /storage/capabilities` (`v4.local.…`).",
                },
            },
        },
    })
}

fn tags(routes: &[RouteInfo]) -> Value {
    let mut seen = BTreeSet::new();
    routes
        .iter()
        .filter(|route| seen.insert(route.tag))
        .map(|route| json!({ "name": route.tag }))
        .collect()
}

fn headers() -> Value {
    json!({
        "RequestId": {
            "description": "The id of the request, as in the envelope and in the logs.",
            "schema": { "type": "string" },
        },
        "RateLimit": {
            "description": "Requests a minute that the tightest of the caller's limits allows.",
            "schema": { "type": "integer", "minimum": 0 },
        },
        "RateRemaining": {
            "description": "What is left of it.",
            "schema": { "type": "integer", "minimum": 0 },
        },
        "RateReset": {
            "description": "When all of it is there again, in seconds since the Unix epoch.",
            "schema": { "type": "integer", "minimum": 0 },
        },
        "RetryAfter": {
            "description": "Seconds after which the same call may succeed.",
            "schema": { "type": "integer", "minimum": 0 },
        },
    })
}

fn operation(route: &RouteInfo, schemas: &mut Schemas) -> Value {
    let mut operation = json!({
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.tag],
        "security": match route.access {
            Access::Public => json!([]),
            Access::Worker => json!([{ "worker": [] }]),
            Access::Proxy => json!([{ "worker": [] }, { "capability": [] }]),
            _ => json!([{ "caller": [] }]),
        },
        "responses": responses(route, schemas),
    });
    let parameters = parameters(route, schemas);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(permission) = route.access.permission() {
        operation["x-permission"] = permission.key().into();
    }
    match route.access {
        Access::Reads(_) => operation["x-viewers"] = true.into(),
        Access::Platform(_) => operation["x-reach"] = "platform".into(),
        _ => {}
    }
    operation
}

fn parameters(route: &RouteInfo, schemas: &mut Schemas) -> Vec<Value> {
    let mut parameters = Vec::new();
    for (name, of) in &route.params {
        let schema = schemas.taken(*of);
        parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
    }
    let query = route.query.map(|of| schemas.taken(of)).unwrap_or_default();
    let required = query["required"].as_array().cloned().unwrap_or_default();
    for (name, schema) in query["properties"].as_object().into_iter().flatten() {
        let mut schema = without_null(schema.clone());
        let description = schema.as_object_mut().and_then(|members| members.remove("description"));
        let is_required = required.iter().any(|required| required == name);
        let mut parameter =
            json!({ "name": name, "in": "query", "required": is_required, "schema": schema });
        if let Some(description) = description {
            parameter["description"] = description;
        }
        parameters.push(parameter);
    }
    if route.takes_key {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "The same key with the same body gets the first answer again.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        }));
    }
    parameters
}

/// A query has no way to say `null`: what may be left out is left out.
fn without_null(mut schema: Value) -> Value {
    if let Some(kinds) = schema["type"].as_array() {
        let kinds: Vec<_> = kinds.iter().filter(|kind| *kind != "null").cloned().collect();
        if let [kind] = kinds.as_slice() {
            schema["type"] = kind.clone();
        }
    }
    let choices = schema["anyOf"].as_array().cloned().unwrap_or_default();
    if let Some(kind) = choices.iter().find(|choice| choice["type"] != "null")
        && choices.len() == 2
    {
        let description = schema["description"].clone();
        schema = kind.clone();
        if !description.is_null() {
            schema["description"] = description;
        }
    }
    if schema["default"].is_null()
        && let Some(members) = schema.as_object_mut()
    {
        members.remove("default");
        members.retain(|_, value| !value.is_null());
    }
    schema
}

fn body_of(route: &RouteInfo, schemas: &mut Schemas) -> Option<Value> {
    Some(match route.body? {
        Body::Json(of) => {
            let mut content = json!({ "schema": schemas.taken(of) });
            if let Some(example) = &route.example {
                content["example"] = example.clone();
            }
            json!({ "required": true, "content": { JSON: content } })
        }
        Body::Bytes => json!({ "required": true, "content": { "application/octet-stream": {} } }),
    })
}

fn responses(route: &RouteInfo, schemas: &mut Schemas) -> Value {
    let mut responses: BTreeMap<u16, Value> = BTreeMap::new();
    for (status, content) in &route.answers {
        let response = responses.entry(*status).or_insert_with(|| success(route, *status));
        let (media, schema) = match content {
            Content::Nothing | Content::Upgrade => continue,
            Content::Bytes(media) => (*media, None),
            Content::Events => (EVENTS, None),
            Content::Document => (JSON, Some(json!({ "type": "object" }))),
            Content::Data(of) => {
                let data = schemas.answered(*of);
                let meta = schemas.answered(reference::<Meta>);
                (JSON, Some(envelope("ok", "data", data, meta)))
            }
            Content::Page(of) => {
                let data = json!({ "type": "array", "items": schemas.answered(*of) });
                let meta = schemas.answered(reference::<Meta>);
                (JSON, Some(page(envelope("ok", "data", data, meta))))
            }
        };
        add_content(response, media, schema);
    }
    let mut errors: BTreeMap<u16, BTreeSet<&'static str>> = BTreeMap::new();
    for code in failures(route) {
        errors.entry(code.http_status().as_u16()).or_default().insert(code.as_str());
    }
    for (status, codes) in errors {
        responses.insert(status, failure(route, status, &codes));
    }
    let by_status = responses.into_iter().map(|(status, answer)| (status.to_string(), answer));
    Value::Object(by_status.collect())
}

fn success(route: &RouteInfo, status: u16) -> Value {
    let description = match status {
        101 => "The connection is upgraded",
        201 => "Made",
        202 => "Under way",
        204 => "Done",
        206 => "A part",
        304 => "Not modified",
        _ => "OK",
    };
    let mut headers = json!({ "X-Request-Id": { "$ref": "#/components/headers/RequestId" } });
    add_limits(route, &mut headers);
    json!({ "description": description, "headers": headers })
}

fn failure(route: &RouteInfo, status: u16, codes: &BTreeSet<&'static str>) -> Value {
    let named: Vec<_> = codes.iter().map(|code| format!("`{code}`")).collect();
    let mut headers = json!({ "X-Request-Id": { "$ref": "#/components/headers/RequestId" } });
    add_limits(route, &mut headers);
    if status == 429 {
        headers["Retry-After"] = json!({ "$ref": "#/components/headers/RetryAfter" });
    }
    let schema = json!({
        "$ref": "#/components/schemas/ErrorEnvelope",
        "properties": { "error": { "properties": { "code": { "enum": codes } } } },
    });
    json!({
        "description": named.join(", "),
        "headers": headers,
        "content": { JSON: { "schema": schema } },
    })
}

fn add_limits(route: &RouteInfo, headers: &mut Value) {
    if !route.access.is_by_actor() {
        return;
    }
    for (name, component) in
        [("Limit", "RateLimit"), ("Remaining", "RateRemaining"), ("Reset", "RateReset")]
    {
        let reference = format!("#/components/headers/{component}");
        headers[format!("X-Scaigrid-Ratelimit-{name}")] = json!({ "$ref": reference });
    }
}

fn envelope(status: &str, member: &str, content: Value, meta: Value) -> Value {
    json!({
        "type": "object",
        "required": ["status", member, "meta"],
        "properties": { "status": { "const": status }, member: content, "meta": meta },
    })
}

fn page(mut envelope: Value) -> Value {
    envelope["required"] = json!(["status", "data", "has_more", "next_cursor", "meta"]);
    envelope["properties"]["has_more"] = json!({ "type": "boolean" });
    envelope["properties"]["next_cursor"] = json!({
        "type": ["string", "null"],
        "description": "For `cursor`, exactly when there is more.",
    });
    envelope
}

/// Several answers of one status and media type are alternatives.
fn add_content(response: &mut Value, media: &str, schema: Option<Value>) {
    let content = &mut response["content"];
    if content.is_null() {
        *content = json!({});
    }
    let known = content.get(media).and_then(|known| known.get("schema")).cloned();
    content[media] = match (known, schema) {
        (None, None) => json!({}),
        (None, Some(schema)) | (Some(schema), None) => json!({ "schema": schema }),
        (Some(known), Some(schema)) => {
            let mut choices = known["anyOf"].as_array().cloned().unwrap_or_else(|| vec![known]);
            choices.push(schema);
            json!({ "schema": { "anyOf": choices } })
        }
    };
}

/// What the route may fail with: its own, and what all of its kind do.
fn failures(route: &RouteInfo) -> BTreeSet<ErrorCode> {
    let mut codes: BTreeSet<_> = route.errors.iter().copied().collect();
    codes.insert(ErrorCode::Internal);
    if route.access != Access::Public {
        // The database or the ledger may be away.
        codes.extend([ErrorCode::Unauthorized, ErrorCode::NotReady]);
    }
    if route.access.is_by_actor() {
        codes.extend([ErrorCode::RateLimited, ErrorCode::ValidationError]);
    }
    if route.access.permission().is_some() {
        codes.insert(ErrorCode::Forbidden);
    }
    if !route.params.is_empty() {
        codes.insert(ErrorCode::NotFound);
    }
    if route.takes_key {
        codes.insert(ErrorCode::IdempotencyConflict);
    }
    match route.body {
        Some(Body::Json(_)) => codes.extend([
            ErrorCode::BadRequest,
            ErrorCode::PayloadTooLarge,
            ErrorCode::ValidationError,
        ]),
        Some(Body::Bytes) => codes.extend([ErrorCode::BadRequest, ErrorCode::ValidationError]),
        None => {}
    }
    codes
}
