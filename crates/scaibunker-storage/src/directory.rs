//! Objects in a directory of this machine.

use std::{io, path::Path, path::PathBuf, sync::Arc};

use object_store::{ObjectStore, local::LocalFileSystem};

/// The directory cannot hold objects.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot make the directory {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot keep objects in {}", path.display())]
    Open { path: PathBuf, source: object_store::Error },
}

/// Opens an object store in `path`, which is made if it is missing.
pub fn open_directory(path: &Path) -> Result<Arc<dyn ObjectStore>, OpenError> {
    std::fs::create_dir_all(path)
        .map_err(|source| OpenError::Create { path: path.to_owned(), source })?;
    let store = LocalFileSystem::new_with_prefix(path)
        .map_err(|source| OpenError::Open { path: path.to_owned(), source })?;
    Ok(Arc::new(store))
}
