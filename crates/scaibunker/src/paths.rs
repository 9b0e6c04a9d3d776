//! Where this program and the local server keep their files.

use std::{env, path::PathBuf};

const DATA_DIR_VARIABLE: &str = "SCAIBUNKER_DATA_DIR";

/// `$SCAIBUNKER_DATA_DIR`, else `$XDG_DATA_HOME/scaibunker`, else `~/.local/share/scaibunker`;
/// `None` when the environment names neither of the latter by an absolute path.
pub fn default_data_dir() -> Option<PathBuf> {
    env::var_os(DATA_DIR_VARIABLE)
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| base_dir("XDG_DATA_HOME", ".local/share"))
}

/// `$XDG_CACHE_HOME/scaibunker`, else `~/.cache/scaibunker`.
pub fn default_cache_dir() -> Option<PathBuf> {
    base_dir("XDG_CACHE_HOME", ".cache")
}

/// `$XDG_CONFIG_HOME/scaibunker`, else `~/.config/scaibunker`.
pub fn config_dir() -> Option<PathBuf> {
    base_dir("XDG_CONFIG_HOME", ".config")
}

fn base_dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable)
        .or_else(|| absolute("HOME").map(|home| home.join(below_home)))
        .map(|base| base.join("scaibunker"))
}
