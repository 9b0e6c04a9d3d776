//! The hosts of package registries that this machine itself is set up to use. No host is built in:
//! what a bunker with the `registry` profile reaches is what the operator's machines reach.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use scaibunker_api::host_name::HostName;
use url::Url;

/// Files of apt, pip, npm and cargo. Those that begin with `~` are in the home directory.
const FILES: [&str; 11] = [
    "/etc/apt/sources.list",
    "/etc/pip.conf",
    "~/.config/pip/pip.conf",
    "~/.pip/pip.conf",
    "/etc/npmrc",
    "/usr/etc/npmrc",
    "~/.npmrc",
    "~/.cargo/config.toml",
    "~/.cargo/config",
    "/etc/cargo/config.toml",
    "/usr/local/cargo/config.toml",
];

/// Where apt keeps more of them.
const APT_DIRECTORY: &str = "/etc/apt/sources.list.d";

/// A configuration file is far smaller.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The hosts, sorted. Files that cannot be read are left out.
#[must_use]
pub fn registry_hosts(root: &Path, home: Option<&Path>) -> Vec<String> {
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let mut files: Vec<PathBuf> = FILES
        .iter()
        .filter_map(|file| match file.strip_prefix("~/") {
            Some(rest) => home.map(|home| home.join(rest)),
            None => Some(below(file)),
        })
        .collect();
    let more = fs::read_dir(below(APT_DIRECTORY)).into_iter().flatten().flatten();
    files.extend(more.map(|entry| entry.path()));
    let texts = files.iter().filter_map(|file| read(file));
    let hosts: BTreeSet<String> = texts.flat_map(|text| hosts_in(&text)).collect();
    hosts.into_iter().collect()
}

fn read(file: &Path) -> Option<String> {
    if fs::metadata(file).ok()?.len() > MAX_FILE_BYTES {
        return None;
    }
    fs::read_to_string(file).ok()
}

/// The hosts of all URLs in a text, but for comments. All four programs name their registries by URL,
/// and nothing else: an alias in front of one (`sparse+`), options around it (`[arch=amd64]`) or quotes
/// make no difference.
fn hosts_in(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', ';']));
    let words =
        lines.flat_map(|line| line.split(|c: char| c.is_whitespace() || "\"'=,".contains(c)));
    let hosts = words.filter_map(|word| {
        let word = word.strip_prefix("sparse+").unwrap_or(word);
        let url = Url::parse(word).ok()?;
        matches!(url.scheme(), "http" | "https").then_some(())?;
        HostName::parse(url.host_str()?)
    });
    hosts.map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_four_programs_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (root, home) = (dir.path(), dir.path().join("root"));
        write(
            &root.join("etc/apt/sources.list.d/main.sources"),
            "Types: deb\nURIs: http://deb.example/debian https://sec.example/x\n# http://no.example\n",
        );
        write(&root.join("etc/apt/sources.list"), "deb [arch=amd64] http://old.example/d x main\n");
        write(&root.join("etc/pip.conf"), "[global]\nindex-url=https://py.example:8443/simple\n");
        write(&home.join(".npmrc"), "registry=https://npm.example/\n; https://no.example\n");
        write(
            &home.join(".cargo/config.toml"),
            "[source.mirror]\nregistry = \"sparse+https://crates.example/api/\"\n",
        );
        write(&home.join(".config/pip/pip.conf"), "extra-index-url = https://10.0.0.1/simple\n");
        assert_eq!(
            registry_hosts(root, Some(&home)),
            [
                "crates.example",
                "deb.example",
                "npm.example",
                "old.example",
                "py.example",
                "sec.example"
            ]
        );
        assert!(registry_hosts(&root.join("nothing"), None).is_empty());
    }
}
