//! The files that a snapshot's parts are in, on their way to the object store or back.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::Path,
};

use scaibunker_snapshot::{
    CHUNK_BYTES, FoundChunk, Layout, Part, SnapshotKeys, find_chunks, read_chunk,
};

use crate::engine::{SavedVm, Template, memory};

/// One file for each part that there is.
#[derive(Debug)]
pub struct Parts {
    layout: Layout,
    disk: File,
    machine: Option<Machine>,
}

#[derive(Debug)]
struct Machine {
    memory: File,
    devices: File,
}

fn no_chunk() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the snapshot has no such chunk")
}

impl Parts {
    /// Those of a disk.
    pub fn of_disk(disk: File, disk_bytes: u64) -> Self {
        let layout = Layout { disk_bytes, ..Layout::default() };
        Self { layout, disk, machine: None }
    }

    /// Those of a bunker's moment.
    pub fn of_moment(moment: &Template) -> io::Result<Self> {
        let memory = File::from(moment.saved.memory.try_clone()?);
        let devices = moment.saved.state.try_clone()?;
        let disk = moment.scratch.try_clone()?;
        let layout = Layout {
            disk_bytes: u64::from(moment.shape.disk_mb) << 20,
            memory_bytes: memory.metadata()?.len(),
            devices_bytes: devices.metadata()?.len(),
        };
        Ok(Self { layout, disk, machine: Some(Machine { memory, devices }) })
    }

    /// Empty ones in `dir`, for everything that a snapshot has.
    pub fn create(layout: Layout, dir: &Path) -> io::Result<Self> {
        let disk = tempfile::tempfile_in(dir)?;
        disk.set_len(layout.disk_bytes)?;
        let memory = File::from(memory::create(layout.memory_bytes)?);
        let devices = tempfile::tempfile_in(dir)?;
        devices.set_len(layout.devices_bytes)?;
        Ok(Self { layout, disk, machine: Some(Machine { memory, devices }) })
    }

    /// What a bunker continues from, once everything is written; with the disk.
    pub fn into_moment(self) -> io::Result<(SavedVm, File)> {
        let Machine { memory, devices } = self.machine.ok_or_else(no_chunk)?;
        let memory = OwnedFd::from(memory);
        memory::seal(&memory)?;
        Ok((SavedVm { memory, state: devices }, self.disk))
    }

    /// How long the parts are.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    fn file(&self, part: Part) -> Option<&File> {
        match part {
            Part::Disk => Some(&self.disk),
            Part::Memory => Some(&self.machine.as_ref()?.memory),
            Part::Devices => Some(&self.machine.as_ref()?.devices),
        }
    }

    fn place(&self, chunk: u32) -> io::Result<(&File, Part, u64)> {
        let (part, within) = self.layout.find(chunk).ok_or_else(no_chunk)?;
        Ok((self.file(part).ok_or_else(no_chunk)?, part, within))
    }

    /// The chunks that hold something. Blocks.
    pub fn find_chunks(&self, keys: &SnapshotKeys) -> io::Result<Vec<FoundChunk>> {
        let mut found = Vec::new();
        for part in Part::ALL {
            if let Some(file) = self.file(part) {
                let (bytes, first) = (self.layout.bytes(part), self.layout.first_chunk(part));
                found.extend(find_chunks(file, bytes, first, keys)?);
            }
        }
        Ok(found)
    }

    /// A chunk's contents. Blocks.
    pub fn read(&self, chunk: u32) -> io::Result<Vec<u8>> {
        let (file, part, within) = self.place(chunk)?;
        read_chunk(file, self.layout.bytes(part), within)
    }

    /// Writes a chunk's contents. Blocks.
    pub fn write(&self, chunk: u32, contents: &[u8]) -> io::Result<()> {
        let (file, part, within) = self.place(chunk)?;
        let start = within * CHUNK_BYTES as u64;
        if start + contents.len() as u64 > self.layout.bytes(part) {
            return Err(no_chunk());
        }
        file.write_all_at(contents, start)
    }
}
