//! An image's configuration: how its commands run, and what its layers are uncompressed.

use std::collections::BTreeMap;

use scaibunker_api::image::RootConfig;
use serde::Deserialize;

use super::{OciError, sha256_hex};

/// What of it is used.
#[derive(Debug, PartialEq, Eq)]
pub struct ImageConfiguration {
    pub root: RootConfig,
    /// One for each layer; empty if it does not say.
    pub diff_ids: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Raw {
    #[serde(default)]
    config: Option<RawConfig>,
    #[serde(default)]
    rootfs: Option<RawRoot>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct RawRoot {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// Reads the configuration of an image with that many layers.
pub fn parse(bytes: &[u8], layers: usize) -> Result<ImageConfiguration, OciError> {
    let raw: Raw = serde_json::from_slice(bytes)
        .map_err(|error| OciError::Corrupt(format!("the configuration cannot be read: {error}")))?;
    let diff_ids = raw.rootfs.map(|root| root.diff_ids).unwrap_or_default();
    if !diff_ids.is_empty() && diff_ids.len() != layers {
        let message = format!("it has {layers} layers and {} digests of them", diff_ids.len());
        return Err(OciError::Corrupt(message));
    }
    if diff_ids.iter().any(|digest| sha256_hex(digest).is_none()) {
        return Err(OciError::Corrupt("a digest of a layer is not a SHA-256".to_owned()));
    }
    let config = raw.config.unwrap_or_default();
    let root = RootConfig {
        user: config.user.unwrap_or_default(),
        env: config.env.unwrap_or_default().iter().filter_map(|entry| variable(entry)).collect(),
        workdir: config.working_dir.unwrap_or_default(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
    };
    if holds_nul(&root) {
        return Err(OciError::Corrupt("its configuration holds a NUL".to_owned()));
    }
    Ok(ImageConfiguration { root, diff_ids })
}

/// What has no `=` or no name sets nothing, as in other runtimes.
fn variable(entry: &str) -> Option<(String, String)> {
    let (name, value) = entry.split_once('=')?;
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

/// No program could be started with it.
fn holds_nul(root: &RootConfig) -> bool {
    let RootConfig { user, env, workdir, entrypoint, cmd } = root;
    let variables: &BTreeMap<_, _> = env;
    [user, workdir]
        .into_iter()
        .chain(variables.iter().flat_map(|(name, value)| [name, value]))
        .chain(entrypoint)
        .chain(cmd)
        .any(|text| text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_says_how_commands_run() {
        let json = r#"{"architecture":"amd64","config":{"User":"1000:50","Env":["A=b=c","odd","=x"],
            "WorkingDir":"/srv","Entrypoint":["/run"],"Cmd":null},"rootfs":{"diff_ids":[]}}"#;
        let parsed = parse(json.as_bytes(), 0).unwrap().root;
        assert_eq!((parsed.user.as_str(), parsed.workdir.as_str()), ("1000:50", "/srv"));
        assert_eq!(parsed.env, [("A".to_owned(), "b=c".to_owned())].into());
        assert_eq!((parsed.entrypoint, parsed.cmd), (vec!["/run".to_owned()], vec![]));
    }

    #[test]
    fn one_without_anything_is_fine_and_one_that_contradicts_is_not() {
        assert_eq!(parse(b"{}", 3).unwrap().root, RootConfig::default());
        assert!(parse(br#"{"rootfs":{"diff_ids":["x"]}}"#, 1).is_err());
        let digest = format!("sha256:{}", "0".repeat(64));
        let one = format!(r#"{{"rootfs":{{"diff_ids":["{digest}"]}}}}"#);
        assert!(parse(one.as_bytes(), 1).is_ok() && parse(one.as_bytes(), 2).is_err());
        assert!(parse(br#"{"config":{"User":"a\u0000b"}}"#, 0).is_err());
    }
}
