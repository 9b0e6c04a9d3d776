//! Which image is which root: a file for each image, so that a restarted worker knows.

use std::{fs, io, path::PathBuf};

use scaibunker_api::{ids::ImageId, worker::BakedRoot};
use serde::{Deserialize, Serialize};

/// What survives the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    pub name: String,
    pub digest: String,
    /// Whether this worker has baked it, and so has to store it.
    pub baked_here: bool,
    pub baked: Option<BakedRoot>,
    pub default_cpu_millicores: u32,
    pub default_memory_mb: u32,
    pub default_disk_mb: u32,
}

/// The directory of records.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
}

impl Records {
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn path(&self, id: ImageId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    pub fn put(&self, id: ImageId, record: &ImageRecord) -> io::Result<()> {
        let next = self.dir.join(format!("{id}.next"));
        fs::write(&next, serde_json::to_vec_pretty(record)?)?;
        fs::File::open(&next)?.sync_all()?;
        fs::rename(next, self.path(id))
    }

    pub fn remove(&self, id: ImageId) {
        // One that stays names a root that is gone, and is then ignored.
        let _ = fs::remove_file(self.path(id));
    }

    /// All that can be read.
    pub fn list(&self) -> io::Result<Vec<(ImageId, ImageRecord)>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|id| id.parse().ok());
            let is_record = path.extension().is_some_and(|extension| extension == "json");
            if let (Some(id), true) = (id, is_record)
                && let Ok(record) = serde_json::from_slice(&fs::read(&path)?)
            {
                records.push((id, record));
            }
        }
        Ok(records)
    }
}
