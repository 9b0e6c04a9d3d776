//! JSON bodies: bounded, and with faults that name the field.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use scaibunker_api::error::{ErrorBody, ErrorCode};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use tokio::time::timeout;

use super::fault::Fault;

const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;

/// A client that sends its body slower than this holds a connection for nothing.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// A body that was read as JSON.
pub(super) struct JsonBody<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let bytes = read(request).await?;
        parse(&bytes).map(Self).map_err(Fault)
    }
}

async fn read(request: Request) -> Result<Bytes, Fault> {
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let (code, message) = match timeout(BODY_LIMIT, body).await {
        Ok(Ok(body)) => return Ok(body.to_bytes()),
        Ok(Err(error)) if is_too_large(error.as_ref()) => {
            (ErrorCode::PayloadTooLarge, "the body is larger than the 2 MiB that this route takes")
        }
        Ok(Err(_)) => (ErrorCode::BadRequest, "the body broke off; send the request again"),
        Err(_) => (ErrorCode::BadRequest, "the body took longer than 30 s; send it faster"),
    };
    Err(ErrorBody::new(code, message).into())
}

fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut innermost = Some(error);
    while let Some(error) = innermost {
        if error.is::<LengthLimitError>() {
            return true;
        }
        innermost = error.source();
    }
    false
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ErrorBody> {
    let not_json = |error: serde_json::Error| {
        ErrorBody::new(ErrorCode::BadRequest, format!("the body is not JSON: {error}"))
    };
    // serde would also take an array for an object, field by field in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(not_json)?;
        return Err(ErrorBody::invalid("body", "must be a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        match error.classify() {
            Category::Data => {
                let message = error.to_string();
                ErrorBody::invalid(field_of(&path, &message), without_position(&message))
            }
            Category::Syntax | Category::Eof | Category::Io => not_json(error),
        }
    })?;
    deserializer.end().map_err(not_json)?;
    Ok(value)
}

/// A missing, unknown or doubled field is named by the message alone: the path ends at what holds it.
pub(super) fn field_of(path: &str, message: &str) -> String {
    let path = path.trim_start_matches('.');
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.split_once(start)?.1.split('`').next());
    match named {
        None if path.is_empty() => "body".to_owned(),
        None => path.to_owned(),
        Some(name) if path.is_empty() || path == name => name.to_owned(),
        Some(name) if path.ends_with(&format!(".{name}")) => path.to_owned(),
        Some(name) => format!("{path}.{name}"),
    }
}

fn without_position(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(text, _)| text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scaibunker_api::{bunker::CreateBunker, exec::ExecRequest};

    use super::*;

    fn fault<T: DeserializeOwned>(json: &str) -> (ErrorCode, Option<String>) {
        let Err(error) = parse::<T>(json.as_bytes()) else { panic!("{json} was taken") };
        (error.code, error.details.into_iter().next().map(|detail| detail.field))
    }

    #[test]
    fn faults_name_their_field() {
        let invalid = |field: &str| (ErrorCode::ValidationError, Some(field.to_owned()));
        assert_eq!(fault::<CreateBunker>(r#"{"image":"a","imge":"b"}"#), invalid("imge"));
        assert_eq!(fault::<CreateBunker>(r#"{"memory_mb":"1"}"#), invalid("memory_mb"));
        assert_eq!(fault::<CreateBunker>(r#"{"memory_mb":-1}"#), invalid("memory_mb"));
        assert_eq!(fault::<CreateBunker>(r#"{"env_vars":{"A":1}}"#), invalid("env_vars.A"));
        assert_eq!(
            fault::<CreateBunker>(r#"{"interfaces":[{"if_name":"a","nick":1}]}"#),
            invalid("interfaces[0].nick")
        );
        assert_eq!(fault::<CreateBunker>(r#"["busybox"]"#), invalid("body"));
        assert_eq!(fault::<CreateBunker>("7"), invalid("body"));
        assert_eq!(fault::<ExecRequest>("{}"), invalid("command"));
        assert_eq!(fault::<ExecRequest>(r#"{"command":7}"#), invalid("command"));
    }

    #[test]
    fn what_is_not_json_is_another_error() {
        for json in ["", "{", "image", "{} {}", r#"{"image":"a"}}"#] {
            assert_eq!(fault::<CreateBunker>(json).0, ErrorCode::BadRequest, "{json}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = parse::<CreateBunker>(&bytes);
        }
    }
}
