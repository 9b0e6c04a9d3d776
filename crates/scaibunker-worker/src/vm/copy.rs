//! Copies of a bunker as it is at one moment, while it goes on.

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{CONFIRM_LIMIT, HOLD_LIMIT, Vm, VmError, io_failed};
use crate::{
    assets::BakedImage,
    engine::{Capture, Shape, Template},
};

/// The guest writes out what it has not written yet, which may be much.
const FREEZE_LIMIT: Duration = Duration::from_secs(60);

/// A copy of a bunker's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    pub disk_bytes: u64,
    /// How long nothing could be written in the bunker.
    pub frozen: Duration,
}

/// Everything of a bunker at one moment: its disk, its memory and what runs in it.
#[derive(Debug, Clone)]
pub struct Moment {
    /// What copies of the bunker continue from.
    pub template: Arc<Template>,
    /// How long the bunker stood still for it.
    pub stood_still: Duration,
}

impl Vm {
    /// Copies the disk as it is at one moment into an empty file. Whatever the guest has written is in
    /// it: a paused guest is woken for as long as it takes to write that out.
    pub async fn copy_disk(&mut self, target: &File, request_id: &str) -> Result<Copied, VmError> {
        let disk_bytes = self.size(target)?;
        let was_paused = self.wake().await?;
        let copied = self.copy_frozen_disk(target, request_id).await;
        if was_paused {
            self.machine.pause().await?;
        }
        Ok(Copied { disk_bytes, frozen: copied? })
    }

    /// How long the file system was frozen.
    async fn copy_frozen_disk(
        &mut self,
        target: &File,
        request_id: &str,
    ) -> Result<Duration, VmError> {
        let channel = self.channel()?;
        channel.post("/freeze", &(), request_id, FREEZE_LIMIT).await.map_err(VmError::Freeze)?;
        let began = Instant::now();
        let begun = self.machine.begin_disk_copy(target).await;
        let thawed = channel.post("/thaw", &(), request_id, CONFIRM_LIMIT).await;
        let frozen = began.elapsed();
        begun.map_err(VmError::Copy)?;
        self.machine.finish_disk_copy().await.map_err(VmError::Copy)?;
        // What was not frozen until the copy had begun is of no one moment.
        thawed.map_err(VmError::Freeze)?;
        Ok(frozen)
    }

    /// Copies everything of the bunker as it is at one moment; the disk goes into an empty file. A paused
    /// bunker is woken for a moment, in which its commands stand still.
    pub async fn copy_all(
        &mut self,
        shape: Shape,
        image: BakedImage,
        scratch: File,
        request_id: &str,
    ) -> Result<Moment, VmError> {
        if !self.seat.home.record().gpus.is_empty() {
            return Err(VmError::HasGpus);
        }
        self.size(&scratch)?;
        let was_paused = self.wake().await?;
        let captured = self.capture(&scratch, was_paused, request_id).await;
        if was_paused {
            self.machine.pause().await?;
        }
        let (Capture { saved, .. }, stood_still) = captured?;
        Ok(Moment { template: Arc::new(Template { shape, image, saved, scratch }), stood_still })
    }

    async fn capture(
        &mut self,
        scratch: &File,
        was_paused: bool,
        request_id: &str,
    ) -> Result<(Capture, Duration), VmError> {
        let channel = self.channel()?;
        channel.post("/hold", &(), request_id, HOLD_LIMIT).await.map_err(VmError::Hold)?;
        let captured = self.machine.capture().await;
        let begun = match &captured {
            Ok(_) => self.machine.begin_disk_copy(scratch).await,
            Err(_) => Ok(()),
        };
        if !was_paused {
            self.machine.resume().await?;
            self.set_clock(request_id).await?;
        }
        let captured = captured?;
        let stood_still = captured.stopped_at.elapsed();
        begun.map_err(VmError::Copy)?;
        self.machine.finish_disk_copy().await.map_err(VmError::Copy)?;
        Ok((captured, stood_still))
    }

    /// Gives an empty file the size of the disk, in bytes.
    fn size(&self, target: &File) -> Result<u64, VmError> {
        let disk_mb = self.owner().map_or(0, |claim| claim.disk_mb);
        if disk_mb == 0 {
            return Err(VmError::OldDisk);
        }
        let disk_bytes = u64::from(disk_mb) << 20;
        target.set_len(disk_bytes).map_err(io_failed("size the copy of a disk"))?;
        Ok(disk_bytes)
    }

    /// Lets the guest run, whose commands stay held if it was paused; says whether it was.
    async fn wake(&mut self) -> Result<bool, VmError> {
        let is_paused = self.paused().is_some();
        if is_paused {
            self.machine.resume().await?;
        }
        if self.channel.is_none() {
            self.connect(CONFIRM_LIMIT).await?;
        }
        Ok(is_paused)
    }
}
