//! Debian's archive, through the host's own apt.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    AssetError, io_failed,
    program::{APT_CACHE, APT_CONFIG, APT_GET, Call, DPKG_DEB},
};

const ASK_LIMIT: Duration = Duration::from_secs(60);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(15 * 60);
const UNPACK_LIMIT: Duration = Duration::from_secs(5 * 60);

/// The release that images are made from.
pub const RELEASE: &str = "bookworm";

/// Where Debian's packages keep the archive's keys, on the host as in the image.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The packages that `package` depends on.
pub async fn dependencies(package: &str) -> Result<Vec<String>, AssetError> {
    let args = ["depends", "--important", package];
    let output = Call::new(APT_CACHE, Path::new("/"), ASK_LIMIT, args).run().await?;
    Ok(parse_dependencies(&String::from_utf8_lossy(&output)))
}

fn parse_dependencies(output: &str) -> Vec<String> {
    let lines = output.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    lines.map(str::to_owned).collect()
}

/// Downloads a package and unpacks it; returns the directory with its files, which lies in
/// `dir`, an existing directory.
pub async fn unpacked(package: &str, dir: &Path) -> Result<PathBuf, AssetError> {
    let download = dir.join("download");
    let files = dir.join("files");
    fs::create_dir(&download).map_err(io_failed("make", &download))?;
    Call::new(APT_GET, &download, DOWNLOAD_LIMIT, ["download", "--", package]).run().await?;
    let listing = fs::read_dir(&download).map_err(io_failed("list", &download))?;
    let found = listing.flatten().map(|entry| entry.path());
    let Some(deb) = found.into_iter().find(|path| path.extension() == Some("deb".as_ref())) else {
        return Err(AssetError::Contents { path: download, what: "the downloaded package" });
    };
    let args = ["-x".into(), deb.into_os_string(), files.clone().into_os_string()];
    Call::new(DPKG_DEB, dir, UNPACK_LIMIT, args).run().await?;
    Ok(files)
}

/// The host's own sources of [`RELEASE`], as lines of a `sources.list`: a near mirror stays in
/// use. Empty when the host has none; third parties' sources are left out.
pub async fn sources() -> Vec<String> {
    const FORMAT: &str =
        "$(ORIGIN)|$(CODENAME)|$(ARCHITECTURE)|$(COMPONENT)|$(REPO_URI)|$(RELEASE)";
    let args = ["indextargets", "--format", FORMAT, "Created-By: Packages"];
    let output = Call::new(APT_GET, Path::new("/"), ASK_LIMIT, args).run().await;
    parse_sources(
        &String::from_utf8_lossy(&output.unwrap_or_default()),
        Path::new(KEYRING).exists(),
    )
}

/// An address with a password in it is left out, because the image would carry it.
fn parse_sources(output: &str, has_keyring: bool) -> Vec<String> {
    let suites = ["", "-updates", "-security"].map(|suffix| format!("{RELEASE}{suffix}"));
    let options = if has_keyring { format!(" [signed-by={KEYRING}]") } else { String::new() };
    let mut lines = Vec::new();
    let mut has_base = false;
    for line in output.lines() {
        let fields: Vec<_> = line.split('|').collect();
        let [origin, codename, architecture, component, uri, suite] = fields[..] else { continue };
        let is_wanted = (origin, architecture, component) == ("Debian", "amd64", "main")
            && suites.iter().any(|suite| suite == codename);
        let is_plain = (uri.starts_with("http://") || uri.starts_with("https://"))
            && !uri.contains(['@', ' '])
            && !suite.contains(' ');
        let entry = format!("deb{options} {uri} {suite} {component}");
        if is_wanted && is_plain && !lines.contains(&entry) {
            has_base |= codename == RELEASE;
            lines.push(entry);
        }
    }
    if has_base { lines } else { Vec::new() }
}

/// The proxies of apt's configuration, as the environment variables that every apt honours. They
/// may hold a password, which an environment keeps from other users and an argument does not.
pub async fn proxy_environment() -> Vec<(String, OsString)> {
    let mut environment = Vec::new();
    for scheme in ["http", "https"] {
        let variable = format!("{scheme}_proxy");
        let key = format!("Acquire::{scheme}::Proxy");
        let args = ["dump", "--format", "%v%n", &key];
        let output = Call::new(APT_CONFIG, Path::new("/"), ASK_LIMIT, args).run().await;
        let output = output.unwrap_or_default();
        // The first line is the key's own value; proxies for single hosts follow.
        let own = String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned();
        match own.as_str() {
            "" => environment.extend(std::env::var_os(&variable).map(|value| (variable, value))),
            "DIRECT" => {}
            _ => environment.push((variable, own.into())),
        }
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_apt() {
        let output = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(parse_dependencies(output), ["linux-image-6.1.0-56-cloud-amd64"]);
    }

    #[test]
    fn only_debians_own_sources_of_the_release_are_taken() {
        let output = "Debian|bookworm|amd64|main|http://mirror.test/debian/|stable
Debian|bookworm|all|main|http://mirror.test/debian/|stable
Debian|bookworm-security|amd64|main|https://mirror.test/security/|bookworm-security
Debian|bookworm|amd64|non-free|http://mirror.test/debian/|stable
Debian Backports|bookworm-backports|amd64|main|http://mirror.test/debian/|bookworm-backports
Debian|bookworm-updates|amd64|main|http://user:secret@mirror.test/debian/|bookworm-updates
Docker|bookworm|amd64|main|https://third.test/debian/|bookworm
nonsense
";
        assert_eq!(
            parse_sources(output, false),
            [
                "deb http://mirror.test/debian/ stable main",
                "deb https://mirror.test/security/ bookworm-security main",
            ]
        );
        assert!(parse_sources(output, true)[0].starts_with("deb [signed-by=/usr/share/keyrings/"));
    }

    #[test]
    fn a_host_of_another_release_has_no_sources_to_offer() {
        let output = "Debian|trixie|amd64|main|http://mirror.test/debian/|trixie
Debian|bookworm-security|amd64|main|http://mirror.test/security/|bookworm-security
";
        assert_eq!(parse_sources(output, true), [""; 0]);
    }
}
