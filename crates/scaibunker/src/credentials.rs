//! The stored login: one server and the key for it, in a file that only this user can read.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{client::Credential, paths, secret};

const FILE: &str = "credentials.toml";

/// Mode of the directory: nobody else may even look for the file.
const DIRECTORY_MODE: u32 = 0o700;

/// Mode bits that let others read the file.
const OPEN_TO_OTHERS: u32 = 0o077;

/// The file, there or not.
pub fn path() -> anyhow::Result<PathBuf> {
    let dir = paths::config_dir().context(
        "no place for a login: neither HOME nor XDG_CONFIG_HOME is set; set SCAIBUNKER_API_KEY",
    )?;
    Ok(dir.join(FILE))
}

/// The login in the file, if there is one.
pub fn read(path: &Path) -> anyhow::Result<Option<Credential>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| cannot("read", path)),
    };
    let mode = fs::metadata(path).with_context(|| cannot("read", path))?.permissions().mode();
    if mode & OPEN_TO_OTHERS != 0 {
        let shown = path.display();
        bail!("{shown} can be read by others; run `chmod 600 {shown}`, and consider a new key");
    }
    // The parser's own words quote the file, and with it the key.
    match toml::from_str(&text) {
        Ok(login) => Ok(Some(login)),
        Err(_) => {
            bail!("{} is no login; replace it with `scaibunker login --url URL`", path.display())
        }
    }
}

/// Stores a login in place of the one before; readers see the old file or the new one.
pub fn write(path: &Path, login: &Credential) -> anyhow::Result<()> {
    let dir = path.parent().context("the login has no directory")?;
    secret::make_private_dir(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(DIRECTORY_MODE))
        .with_context(|| cannot("protect", dir))?;
    let text = toml::to_string(login).context("cannot write the login as TOML")?;
    // A temporary file is made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(|| cannot("write", path))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .and_then(|()| file.persist(path).map_err(|error| error.error))
        .with_context(|| cannot("write", path))?;
    Ok(())
}

/// Removes the login, and says whether there was one.
pub fn remove(path: &Path) -> anyhow::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| cannot("remove", path)),
    }
}

fn cannot(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(key: &str) -> Credential {
        Credential { url: "https://a.example".to_owned(), api_key: key.to_owned() }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_the_user_can_read_what_is_stored() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/scaibunker");
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.join(FILE);
        for key in ["sgk_1", "sgk_\"2\\\n"] {
            write(&path, &login(key)).unwrap();
            assert_eq!((mode(&dir), mode(&path)), (0o700, 0o600));
            assert_eq!(read(&path).unwrap(), Some(login(key)));
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file is left");
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn a_file_that_others_can_read_or_that_is_no_login_is_refused_without_its_key() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        write(&path, &login("sgk_secret")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let open = format!("{:#}", read(&path).unwrap_err());
        assert!(open.contains("chmod 600") && !open.contains("secret"), "{open}");

        fs::write(&path, "api_key = 'sgk_secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let damaged = format!("{:#}", read(&path).unwrap_err());
        assert!(damaged.contains("scaibunker login") && !damaged.contains("secret"), "{damaged}");
    }
}
