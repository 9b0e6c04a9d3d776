//! Images of the simulated worker: it has what it is asked for at once, unless it is told to fail
//! or to wait.

use std::{collections::BTreeMap, sync::Mutex};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use scaibunker_api::{
    error::ErrorCode,
    ids::ImageId,
    image::{CacheStatus, RootConfig},
    worker::{BakedRoot, EnsureImage, ImageFault, ImageFaultCause, ImageFrom, ImageReport},
};

use super::{SimWorker, refusal};

#[derive(Default)]
pub struct SimImages {
    pub held: Mutex<BTreeMap<ImageId, ImageReport>>,
    /// Everything that it was asked, in order.
    pub asked: Mutex<Vec<EnsureImage>>,
    /// Why it cannot get images, if it can't.
    pub fault: Mutex<Option<ImageFaultCause>>,
    /// It begins and does not come to an end.
    pub is_slow: Mutex<bool>,
}

impl SimImages {
    pub fn reports(&self) -> Vec<ImageReport> {
        self.held.lock().unwrap().values().cloned().collect()
    }

    /// Asked to bake, and asked to fetch.
    pub fn counts(&self) -> (usize, usize) {
        let asked = self.asked.lock().unwrap();
        let bakes = asked.iter().filter(|ask| matches!(ask.from, ImageFrom::Source { .. })).count();
        (bakes, asked.len() - bakes)
    }

    /// Lets go of an image to make room.
    pub fn evict(&self, id: ImageId) {
        let fault =
            ImageFault { cause: ImageFaultCause::Evicted, message: "evicted for others".into() };
        let mut held = self.held.lock().unwrap();
        let report = held.get_mut(&id).unwrap();
        *report = ImageReport {
            status: CacheStatus::Pending,
            digest: None,
            error: Some(fault),
            updated_at: Timestamp::now(),
            ..report.clone()
        };
    }

    /// Ends everything under way without success.
    pub fn fail(&self, cause: ImageFaultCause) {
        let asked = self.asked.lock().unwrap().last().cloned().unwrap();
        for report in self.held.lock().unwrap().values_mut() {
            *report = outcome(report.image_id, &asked, Some(cause));
        }
    }

    /// Brings everything under way to its end.
    pub fn finish(&self) {
        *self.is_slow.lock().unwrap() = false;
        let asked = self.asked.lock().unwrap().last().cloned().unwrap();
        for report in self.held.lock().unwrap().values_mut() {
            *report = outcome(report.image_id, &asked, None);
        }
    }
}

pub fn digest_of(id: ImageId) -> String {
    format!("sha256:{id}")
}

fn outcome(image_id: ImageId, ask: &EnsureImage, fault: Option<ImageFaultCause>) -> ImageReport {
    let baked = match &ask.from {
        ImageFrom::Source { .. } => BakedRoot {
            key: format!("images/{image_id}/x.ext4.zst"),
            digest: digest_of(image_id),
            size_bytes: 5,
            manifest_digest: None,
            config: RootConfig { user: "1000".into(), ..RootConfig::default() },
        },
        ImageFrom::Stored { baked } => baked.clone(),
    };
    let is_baker = matches!(ask.from, ImageFrom::Source { .. });
    ImageReport {
        digest: fault.is_none().then(|| baked.digest.clone()),
        image_id,
        status: if fault.is_some() { CacheStatus::Failed } else { CacheStatus::Ready },
        progress: 100,
        error: fault.map(|cause| ImageFault { cause, message: format!("fault: {cause:?}") }),
        size_bytes: Some(5),
        updated_at: Timestamp::now(),
        baked: (is_baker && fault.is_none()).then_some(baked),
    }
}

pub fn routes() -> Router<SimWorker> {
    Router::new().route("/images/{id}", get(show).put(ensure).delete(forget))
}

async fn show(State(worker): State<SimWorker>, Path(id): Path<ImageId>) -> Response {
    match worker.images.held.lock().unwrap().get(&id) {
        Some(report) => Json(report).into_response(),
        None => refusal(ErrorCode::NotFound, "no such image").into_response(),
    }
}

async fn ensure(
    State(worker): State<SimWorker>,
    Path(id): Path<ImageId>,
    Json(ask): Json<EnsureImage>,
) -> Json<ImageReport> {
    let images = &worker.images;
    let mut held = images.held.lock().unwrap();
    let settled = held.get(&id).filter(|report| report.status == CacheStatus::Ready).cloned();
    if let Some(report) = settled {
        return Json(report);
    }
    images.asked.lock().unwrap().push(ask.clone());
    let report = if *images.is_slow.lock().unwrap() {
        let status = CacheStatus::Baking;
        ImageReport { status, progress: 40, digest: None, baked: None, ..outcome(id, &ask, None) }
    } else {
        outcome(id, &ask, *images.fault.lock().unwrap())
    };
    held.insert(id, report.clone());
    Json(report)
}

async fn forget(State(worker): State<SimWorker>, Path(id): Path<ImageId>) -> StatusCode {
    worker.images.held.lock().unwrap().remove(&id);
    StatusCode::NO_CONTENT
}
