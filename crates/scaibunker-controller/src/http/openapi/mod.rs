//! The OpenAPI document, made from the table of routes, and a page that shows it.

mod document;
mod schemas;

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};

pub(super) use self::document::document;
use super::routes;

/// Nothing from elsewhere, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The document as it is served and checked in.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let routes: Vec<_> = routes::all().into_iter().map(|route| route.info).collect();
    let mut text = format!("{:#}", document(&routes));
    text.push('\n');
    text.into()
});

pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

pub(super) async fn page() -> Response {
    asset("text/html; charset=utf-8", include_str!("docs.html"))
}

pub(super) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("docs.js"))
}

pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("docs.css"))
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, env, fs, path::Path};

    use scaibunker_api::{API_PREFIX, error::ErrorCode};

    use super::*;
    use crate::http::route::Access;

    #[test]
    fn the_document_checked_in_is_the_one_served() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        if env::var_os("UPDATE_OPENAPI").is_some() {
            fs::write(&path, &*DOCUMENT).unwrap();
        }
        let checked_in = fs::read(&path).unwrap_or_default();
        assert!(
            checked_in == *DOCUMENT,
            "openapi.json is not what the routes say; run this test with UPDATE_OPENAPI=1 and \
             review the difference"
        );
    }

    #[test]
    fn operations_and_places_are_unique() {
        let (mut operations, mut places) = (BTreeSet::new(), BTreeSet::new());
        for route in routes::all() {
            let info = route.info;
            assert!(operations.insert(info.operation), "{}", info.operation);
            let (verb, resource) = info.operation.split_once('_').expect("verb_resource");
            assert!(!verb.is_empty() && !resource.is_empty());
            for path in route.aliases.iter().chain([&info.path]) {
                assert!(places.insert((info.method.to_string(), *path)), "{path}");
            }
        }
    }

    #[test]
    fn only_what_watches_the_process_and_the_documentation_are_public() {
        let public: Vec<_> = routes::all()
            .into_iter()
            .filter(|route| route.info.access == Access::Public)
            .map(|route| route.info.path)
            .collect();
        let open = ["/health", "/metrics", "/openapi.json", "/docs"];
        for path in public {
            assert!(open.iter().any(|open| path.starts_with(open)), "{path} is public");
            assert_ne!(path, "/health/detailed");
        }
    }

    #[test]
    fn a_change_is_audited_unless_a_worker_or_the_proxy_makes_it() {
        for info in routes::all().into_iter().map(|route| route.info) {
            let changes = info.method != http::Method::GET;
            let exempt = matches!(info.access, Access::Worker | Access::Proxy);
            assert!(!changes || exempt || info.is_audited, "{}", info.operation);
        }
    }

    #[test]
    fn every_parameter_of_a_path_is_described() {
        for info in routes::all().into_iter().map(|route| route.info) {
            let in_path = info.path.split('/').filter_map(|segment| {
                Some(segment.strip_prefix('{')?.strip_suffix('}')?.trim_start_matches('*'))
            });
            let described: Vec<_> = info.params.iter().map(|(name, _)| *name).collect();
            assert_eq!(in_path.collect::<Vec<_>>(), described, "{}", info.path);
            assert!(!info.answers.is_empty(), "{} answers nothing", info.operation);
        }
    }

    #[test]
    fn every_error_code_is_described() {
        let document: serde_json::Value = serde_json::from_slice(&DOCUMENT).unwrap();
        let codes = document["components"]["schemas"]["ErrorCode"]["oneOf"].as_array().unwrap();
        for code in ErrorCode::ALL {
            let described = codes.iter().find(|entry| entry["const"] == code.as_str());
            let described = described.unwrap_or_else(|| panic!("{} has no doc", code.as_str()));
            assert!(described["description"].as_str().is_some_and(|text| !text.is_empty()));
        }
    }

    #[test]
    fn the_macro_knows_the_prefix() {
        assert_eq!(routes::api!(""), API_PREFIX);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document: serde_json::Value = serde_json::from_slice(&DOCUMENT).unwrap();
        let text = String::from_utf8(DOCUMENT.to_vec()).unwrap();
        for reference in text.split("\"$ref\": \"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
