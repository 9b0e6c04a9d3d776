//! The bucket that objects are kept in, where it is not a directory.

use anyhow::Context as _;
use clap::Args;
use http::Uri;
use scaibunker_storage::{S3Config, S3Patience};

use crate::secret;

const ACCESS_KEY_ID_VARIABLE: &str = "SCAIBUNKER_S3_ACCESS_KEY_ID";
const SECRET_ACCESS_KEY_VARIABLE: &str = "SCAIBUNKER_S3_SECRET_ACCESS_KEY";

/// Options of the bucket. Its secrets come from the environment alone: a command line can be read by
/// everyone on the machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Object store")]
pub struct BucketArgs {
    /// Bucket for objects, instead of a directory; its keys come from SCAIBUNKER_S3_ACCESS_KEY_ID
    /// and SCAIBUNKER_S3_SECRET_ACCESS_KEY
    #[arg(long, env = "SCAIBUNKER_S3_BUCKET", value_name = "NAME")]
    s3_bucket: Option<String>,
    /// Server of the bucket, such as http://127.0.0.1:3900 [default: AWS's for the region]
    #[arg(long, env = "SCAIBUNKER_S3_ENDPOINT", value_name = "URL", requires = "s3_bucket",
          value_parser = origin)]
    s3_endpoint: Option<String>,
    /// Region of the bucket
    #[arg(long, env = "SCAIBUNKER_S3_REGION", value_name = "NAME", default_value = "us-east-1")]
    s3_region: String,
}

impl BucketArgs {
    /// The bucket, if there is to be one.
    pub fn config(&self) -> anyhow::Result<Option<S3Config>> {
        let Some(bucket) = &self.s3_bucket else { return Ok(None) };
        let key = |variable| {
            secret::of_environment(variable).with_context(|| {
                format!("no key for the bucket {bucket}: set the environment variable {variable}")
            })
        };
        let endpoint = self.s3_endpoint.clone();
        Ok(Some(S3Config {
            region: self.s3_region.clone(),
            bucket: bucket.clone(),
            access_key_id: key(ACCESS_KEY_ID_VARIABLE)?,
            secret_access_key: key(SECRET_ACCESS_KEY_VARIABLE)?,
            allow_http: endpoint.as_ref().is_some_and(|url| url.starts_with("http://")),
            // Servers other than AWS's have no name for each bucket.
            path_style: endpoint.is_some(),
            endpoint,
            patience: S3Patience::default(),
        }))
    }
}

/// An `http` or `https` URL of a server and nothing on it.
pub fn origin(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is no URL of a server, such as https://bunkers.example");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let (Some("http" | "https"), Some(authority), "/" | "", None) =
        (uri.scheme_str(), uri.authority(), uri.path(), uri.query())
    else {
        return Err(wrong());
    };
    if authority.as_str().contains('@') {
        return Err(wrong());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_url_has_nothing_but_the_server() {
        assert_eq!(origin("https://a.example/"), Ok("https://a.example".to_owned()));
        assert_eq!(origin("http://127.0.0.1:3900"), Ok("http://127.0.0.1:3900".to_owned()));
        for text in ["", "a.example", "ftp://a", "https://a/x", "https://a?b", "https://u:p@a"] {
            assert!(origin(text).is_err(), "{text}");
        }
    }
}
