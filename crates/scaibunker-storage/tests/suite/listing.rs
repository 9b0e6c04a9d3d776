//! What a bucket really has: its objects, and the uploads that were begun and not ended. Asked for
//! with requests of the test's own, since the code under test lists no uploads.

use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::common::{ACCESS_KEY_ID, BUCKET, REGION, SECRET_ACCESS_KEY};

/// The keys of the bucket's objects and unfinished uploads; at most 1,000 of either.
pub async fn kept(endpoint: &str) -> Vec<String> {
    let mut kept = keys(endpoint, "list-type=2").await;
    kept.extend(keys(endpoint, "uploads=").await.iter().map(|key| format!("{key} (unfinished)")));
    kept
}

async fn keys(endpoint: &str, what: &str) -> Vec<String> {
    let url = format!("{endpoint}/{BUCKET}?{}", signed(endpoint, what));
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = client.get(url.parse().unwrap()).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(status.is_success(), "{status} {body}");
    let keys = body.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
    keys.map(|(key, _)| key.to_owned()).collect()
}

/// The query of a GET of the bucket, signed as SigV4 has it.
fn signed(endpoint: &str, what: &str) -> String {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = &time[..8];
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let query = format!(
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={ACCESS_KEY_ID}%2F{}&X-Amz-Date={time}\
         &X-Amz-Expires=60&X-Amz-SignedHeaders=host&{what}",
        scope.replace('/', "%2F")
    );
    let host = endpoint.strip_prefix("http://").unwrap();
    let request = format!("GET\n/{BUCKET}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(request)));
    let first = format!("AWS4{SECRET_ACCESS_KEY}").into_bytes();
    let key = [day, REGION, "s3", "aws4_request"].iter().fold(first, |key, part| mac(&key, part));
    format!("{query}&X-Amz-Signature={}", hex(&mac(&key, &text)))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
