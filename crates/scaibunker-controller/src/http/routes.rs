//! The table of every route of the process: from it come the router, who is let in, what is
//! audited, and the OpenAPI document.

use axum::http::Method;
use scaibunker_api::{
    audit::AuditEntry,
    bunker::{Bunker, BunkerMetrics, CreateBunker, ForkRequest, PatchBunker},
    egress::EgressEvent,
    error::ErrorCode as Code,
    exec::{Detached, ExecAnswer, ExecInput, ExecRecord, ExecRequest, ExecSignal},
    file::{CommitRequest, FileEntry, MkdirRequest, MoveRequest, Unpacked, Upload, UploadRequest},
    ids::{BunkerId, ExecId, ImageId, WorkerId},
    image::{CreateImage, CreatedImage, Image, ImageCacheRow, ImageScan, PatchImage, WarmCounts},
    permission::Permission,
    storage::{Capability, MintCapability},
    worker::{Heard, Heartbeat, RegisterWorker, Registered, Worker},
};

use serde_json::json;

use super::{
    audit, availability_groups, bridges, bunkers, exec, files, health, health_detailed, iam,
    images, lifecycle, metrics, openapi,
    page::ListQuery,
    quotas,
    route::{
        Access::{
            AfterBody, Authenticated, Needs, Platform, Proxy, Public, Reads, Worker as FromWorker,
        },
        Content, Route,
    },
    shell, snapshots, storage, worker_side, workers,
};

/// A path of the module.
macro_rules! api {
    ($path:literal) => {
        concat!("/v1/modules/scaibunker", $path)
    };
}
pub(super) use api;

/// Every route there is.
pub(super) fn all() -> Vec<Route> {
    let groups = [
        ("Bunkers", bunkers()),
        ("Commands", execs()),
        ("Files", files()),
        ("Snapshots", snapshots::routes()),
        ("Images", images()),
        ("Availability groups", availability_groups::routes()),
        ("Workers", workers()),
        ("Bridges", bridges::routes()),
        ("Storage", storage()),
        ("Identity", iam::routes::all()),
        ("Quotas", quotas::routes()),
        ("Audit log", audit()),
        ("Operations", operations()),
        ("For workers", from_workers()),
    ];
    let tagged = |(tag, routes): (_, Vec<Route>)| {
        routes.into_iter().map(move |mut route| {
            route.info.tag = tag;
            route
        })
    };
    groups.into_iter().flat_map(tagged).collect()
}

fn bunkers() -> Vec<Route> {
    vec![
        Route::get(
            api!("/bunkers"),
            "list_bunkers",
            "Bunkers, newest first: your own, or your tenant's for an admin of it",
            Authenticated,
            bunkers::list,
        )
        .query::<bunkers::ListBunkersQuery>()
        .lists::<Bunker>(),
        Route::post(
            api!("/bunkers"),
            "create_bunker",
            "Make a bunker",
            AfterBody(Permission::Create),
            bunkers::create,
        )
        .with_idempotency()
        .query::<bunkers::CreateQuery>()
        .body::<CreateBunker>()
        .example(json!({ "image": "busybox", "memory_mb": 256 }))
        .answers::<Bunker>(201)
        .fails(&[
            Code::ImageNotFound,
            Code::NetworkProfileDenied,
            Code::LifecycleModeDenied,
            Code::InterfacesNotAllowed,
            Code::TransitMissingInterfaces,
            Code::AllowlistInvalid,
            Code::BridgeNotFound,
            Code::NotFound,
            Code::SnapshotNotReady,
            Code::BunkerQuotaExceeded,
            Code::WorkerUnavailable,
            Code::NoSuitableWorker,
            Code::ShuttingDown,
        ]),
        Route::get(
            api!("/bunkers/{id}"),
            "get_bunker",
            "A bunker's record",
            Authenticated,
            bunkers::show,
        )
        .param::<BunkerId>("id")
        .answers::<Bunker>(200),
        Route::patch(
            api!("/bunkers/{id}"),
            "update_bunker",
            "Change a bunker's name, labels or limits",
            Needs(Permission::Create),
            bunkers::patch,
        )
        .param::<BunkerId>("id")
        .body::<PatchBunker>()
        .example(json!({ "name": "build", "idle_timeout_s": 1800 }))
        .answers::<Bunker>(200)
        .fails(&[Code::BunkerNotRunning]),
        Route::delete(
            api!("/bunkers/{id}"),
            "delete_bunker",
            "End a bunker; ending it again is no error",
            Needs(Permission::Create),
            bunkers::end,
        )
        .param::<BunkerId>("id")
        .query::<bunkers::EndQuery>()
        .answers::<Bunker>(200)
        .fails(&[Code::SnapshotNotReady, Code::ImageNotFound]),
        Route::post(
            api!("/bunkers/{id}/pause"),
            "pause_bunker",
            "Stop a bunker's CPUs: it keeps everything but its CPU quota",
            Needs(Permission::Create),
            lifecycle::pause,
        )
        .param::<BunkerId>("id")
        .answers::<Bunker>(200)
        .fails(IN_BUNKER),
        Route::post(
            api!("/bunkers/{id}/resume"),
            "resume_bunker",
            "Let a paused bunker's CPUs run again",
            Needs(Permission::Create),
            lifecycle::resume,
        )
        .param::<BunkerId>("id")
        .answers::<Bunker>(200)
        .fails(IN_BUNKER)
        .fails(&[Code::BunkerQuotaExceeded]),
        Route::post(
            api!("/bunkers/{id}/fork"),
            "fork_bunker",
            "Make copies of a bunker, with everything that runs in it, that go on beside it",
            Needs(Permission::Create),
            lifecycle::fork,
        )
        .with_idempotency()
        .param::<BunkerId>("id")
        .query::<bunkers::CreateQuery>()
        .body::<ForkRequest>()
        .example(json!({ "count": 2 }))
        .answers::<Vec<Bunker>>(201)
        .fails(IN_BUNKER)
        .fails(&[
            Code::CannotBeCopied,
            Code::ImageNotFound,
            Code::NetworkProfileDenied,
            Code::LifecycleModeDenied,
            Code::BunkerQuotaExceeded,
            Code::WorkerUnavailable,
            Code::NoSuitableWorker,
        ]),
        Route::get(
            api!("/bunkers/{id}/events"),
            "stream_bunker_events",
            "A bunker's status, now and whenever it changes",
            Authenticated,
            lifecycle::events,
        )
        .param::<BunkerId>("id")
        .with_answer(200, Content::Events),
        Route::get(
            api!("/bunkers/{id}/metrics"),
            "get_bunker_metrics",
            "What a bunker uses",
            Authenticated,
            lifecycle::metrics,
        )
        .param::<BunkerId>("id")
        .answers::<BunkerMetrics>(200)
        .fails(IN_BUNKER),
        Route::get(
            api!("/bunkers/{id}/egress-audit"),
            "list_egress_events",
            "What a bunker reached and tried to reach, oldest first, if it was made with `egress_audit`",
            Authenticated,
            lifecycle::egress_audit,
        )
        .param::<BunkerId>("id")
        .query::<ListQuery>()
        .lists::<EgressEvent>(),
    ]
}

/// What anything that reaches into a running bunker may fail with.
const IN_BUNKER: &[Code] = &[Code::BunkerNotRunning, Code::BunkerLost, Code::ShuttingDown];

/// What the bunker's file system may answer.
const FILES: &[Code] = &[
    Code::FileNotFound,
    Code::FileExists,
    Code::IsADirectory,
    Code::NotADirectory,
    Code::DirectoryNotEmpty,
    Code::NotARegularFile,
    Code::FileAccessDenied,
    Code::ReadOnlyPath,
    Code::NoSpace,
    Code::SymlinkLoop,
    Code::NameTooLong,
    Code::FileBusy,
    Code::FileFailed,
];

fn execs() -> Vec<Route> {
    let exec_id = |route: Route| {
        let route = route.param::<BunkerId>("id").param::<ExecId>("exec_id");
        route.fails(IN_BUNKER).fails(&[Code::ExecNotFound])
    };
    vec![
        Route::post(
            api!("/bunkers/{id}/exec"),
            "run_exec",
            "Run a command: wait for it, stream its output, or detach it",
            Needs(Permission::Execute),
            exec::run,
        )
        .param::<BunkerId>("id")
        .body::<ExecRequest>()
        .example(json!({ "command": ["echo", "hello"] }))
        .answers::<ExecAnswer>(200)
        .with_answer(200, Content::Events)
        .answers::<Detached>(202)
        .fails(IN_BUNKER)
        .fails(&[Code::ExecFailed, Code::RateLimited]),
        Route::get(
            api!("/bunkers/{id}/execs"),
            "list_execs",
            "Commands that run, and the last that ended",
            Reads(Permission::Execute),
            exec::list,
        )
        .param::<BunkerId>("id")
        .query::<ListQuery>()
        .lists::<ExecRecord>()
        .fails(IN_BUNKER),
        exec_id(Route::get(
            api!("/bunkers/{id}/execs/{exec_id}"),
            "get_exec",
            "Where a command stands",
            Reads(Permission::Execute),
            exec::show,
        ))
        .answers::<ExecRecord>(200),
        exec_id(Route::get(
            api!("/bunkers/{id}/execs/{exec_id}/stream"),
            "stream_exec",
            "Follow a command from a piece of output on",
            Needs(Permission::Execute),
            exec::stream,
        ))
        .query::<exec::StreamQuery>()
        .with_answer(200, Content::Events),
        exec_id(Route::post(
            api!("/bunkers/{id}/execs/{exec_id}/input"),
            "write_exec_input",
            "Write to a command's standard input",
            Needs(Permission::Execute),
            exec::input,
        ))
        .body::<ExecInput>()
        .example(json!({ "data": "hello\n", "eof": true }))
        .with_answer(204, Content::Nothing)
        .fails(&[Code::ExecEnded, Code::StdinClosed]),
        exec_id(Route::post(
            api!("/bunkers/{id}/execs/{exec_id}/signal"),
            "signal_exec",
            "Signal a command",
            Needs(Permission::Execute),
            exec::signal,
        ))
        .body::<ExecSignal>()
        .example(json!({ "signal": "SIGINT" }))
        .with_answer(204, Content::Nothing)
        .fails(&[Code::ExecEnded]),
        exec_id(Route::delete(
            api!("/bunkers/{id}/execs/{exec_id}"),
            "delete_exec",
            "Kill a command and forget it",
            Needs(Permission::Execute),
            exec::end,
        ))
        .with_answer(204, Content::Nothing),
        Route::get(
            api!("/bunkers/{id}/shell"),
            "open_shell",
            "A terminal, over a WebSocket",
            Needs(Permission::Shell),
            shell::open,
        )
        .param::<BunkerId>("id")
        .query::<shell::ShellQuery>()
        .websocket()
        .audited()
        .fails(IN_BUNKER)
        .fails(&[Code::BadRequest, Code::ExecNotFound, Code::ExecEnded, Code::ExecFailed]),
    ]
}

/// A file may well be called `mkdir`, so the calls share their paths with files.
fn files() -> Vec<Route> {
    const ON_FILE: &[&str] = &[
        api!("/bunkers/{id}/files"),
        api!("/bunkers/{id}/files/"),
        api!("/bunkers/{id}/files/mkdir"),
        api!("/bunkers/{id}/files/move"),
        api!("/bunkers/{id}/files/upload"),
        api!("/bunkers/{id}/files/commit"),
    ];
    let files = Needs(Permission::Files);
    let on_file = |route: Route| {
        let route = route.param::<BunkerId>("id").param::<String>("path").also_at(ON_FILE);
        route.fails(IN_BUNKER).fails(FILES)
    };
    let call = |route: Route| route.param::<BunkerId>("id").fails(IN_BUNKER).fails(FILES);
    vec![
        on_file(Route::get(
            api!("/bunkers/{id}/files/{*path}"),
            "read_file",
            "A file's bytes, a directory's entries, or one entry",
            files,
            files::read,
        ))
        .query::<files::ReadQuery>()
        .with_answer(200, Content::Bytes("application/octet-stream"))
        .with_answer(200, Content::Bytes("application/x-tar"))
        .answers::<FileEntry>(200)
        .lists::<FileEntry>()
        .with_answer(206, Content::Bytes("application/octet-stream"))
        .with_answer(304, Content::Nothing)
        .fails(&[Code::RangeNotSatisfiable]),
        on_file(Route::put(
            api!("/bunkers/{id}/files/{*path}"),
            "write_file",
            "Make or replace a file, or unpack a tar file into a directory",
            files,
            files::write,
        ))
        .query::<files::WriteQuery>()
        .bytes_body()
        .answers::<FileEntry>(201)
        .answers::<Unpacked>(200)
        .fails(&[Code::FileTooLarge]),
        on_file(Route::delete(
            api!("/bunkers/{id}/files/{*path}"),
            "delete_file",
            "Remove a file or a directory",
            files,
            files::remove,
        ))
        .query::<files::RemoveQuery>()
        .with_answer(204, Content::Nothing),
        call(Route::post(
            api!("/bunkers/{id}/files/mkdir"),
            "make_directory",
            "Make a directory and those above it",
            files,
            files::make_directory,
        ))
        .body::<MkdirRequest>()
        .example(json!({ "path": "/tmp/new", "mode": "0755" }))
        .answers::<FileEntry>(201),
        call(Route::post(
            api!("/bunkers/{id}/files/move"),
            "move_file",
            "Move or rename a file or a directory",
            files,
            files::rename,
        ))
        .body::<MoveRequest>()
        .example(json!({ "from": "/tmp/a", "to": "/tmp/b" }))
        .answers::<FileEntry>(200),
        call(Route::post(
            api!("/bunkers/{id}/files/upload"),
            "create_upload",
            "A signed URL for a large file",
            files,
            files::upload,
        ))
        .body::<UploadRequest>()
        .example(json!({ "size_bytes": 104_857_600 }))
        .answers::<Upload>(201),
        call(Route::post(
            api!("/bunkers/{id}/files/commit"),
            "commit_upload",
            "Put an uploaded file into its place",
            files,
            files::commit,
        ))
        .body::<CommitRequest>()
        .answers::<FileEntry>(200)
        .fails(&[Code::UploadNotFound]),
        call(Route::get(
            api!("/bunkers/{id}/files-watch"),
            "watch_files",
            "Changes of files as they happen",
            files,
            files::watch,
        ))
        .query::<files::WatchQuery>()
        .with_answer(200, Content::Events),
    ]
}

fn images() -> Vec<Route> {
    let image = |route: Route| route.param::<ImageId>("id").fails(&[Code::ImageNotFound]);
    vec![
        Route::get(
            api!("/images"),
            "list_images",
            "Images that bunkers can be made from",
            Reads(Permission::Create),
            images::list,
        )
        .query::<ListQuery>()
        .lists::<Image>(),
        Route::post(
            api!("/images"),
            "create_image",
            "Register an image; the workers get it in the background",
            Needs(Permission::ImagesManage),
            images::create,
        )
        .with_idempotency()
        .body::<CreateImage>()
        .example(json!({
            "name": "app",
            "source": { "kind": "oci", "ref": "registry.example/team/app:1.2" },
        }))
        .answers::<CreatedImage>(201)
        .fails(&[Code::AlreadyExists]),
        image(Route::get(
            api!("/images/{id}"),
            "get_image",
            "An image's record",
            Reads(Permission::Create),
            images::show,
        ))
        .answers::<Image>(200),
        image(Route::patch(
            api!("/images/{id}"),
            "update_image",
            "Change an image's name, defaults or credentials",
            Needs(Permission::ImagesManage),
            images::patch,
        ))
        .body::<PatchImage>()
        .answers::<Image>(200)
        .fails(&[Code::AlreadyExists]),
        image(Route::delete(
            api!("/images/{id}"),
            "delete_image",
            "Delete an image that no bunker uses",
            Needs(Permission::ImagesManage),
            images::delete,
        ))
        .with_answer(204, Content::Nothing)
        .fails(&[Code::InUse]),
        image(Route::get(
            api!("/images/{id}/cache"),
            "list_image_cache",
            "What each worker has of an image",
            Reads(Permission::Create),
            images::cache,
        ))
        .query::<ListQuery>()
        .lists::<ImageCacheRow>(),
        image(Route::post(
            api!("/images/{id}/warm"),
            "warm_image",
            "Have every worker of the image's groups get it, again if it failed",
            Needs(Permission::ImagesManage),
            images::warm,
        ))
        .answers::<WarmCounts>(200),
        image(Route::get(
            api!("/images/{id}/scan"),
            "get_image_scan",
            "What is known of an image's faults",
            Reads(Permission::Create),
            images::scan,
        ))
        .answers::<ImageScan>(200),
        image(Route::post(
            api!("/images/{id}/scan"),
            "scan_image",
            "Have an image scanned, again if it was",
            Needs(Permission::ImagesManage),
            images::request_scan,
        ))
        .answers::<ImageScan>(202),
    ]
}

fn workers() -> Vec<Route> {
    vec![
        Route::get(
            api!("/workers"),
            "list_workers",
            "Workers, and what they have",
            Platform(Permission::Admin),
            workers::list,
        )
        .query::<ListQuery>()
        .lists::<Worker>(),
        Route::get(
            api!("/workers/{id}"),
            "get_worker",
            "A worker's record",
            Platform(Permission::Admin),
            workers::show,
        )
        .param::<WorkerId>("id")
        .answers::<Worker>(200),
        Route::post(
            api!("/workers/{id}/drain"),
            "drain_worker",
            "Have a worker take no new bunkers",
            Platform(Permission::Admin),
            workers::drain,
        )
        .param::<WorkerId>("id")
        .answers::<Worker>(200)
        .fails(&[Code::NotFound]),
        Route::post(
            api!("/workers/{id}/resume"),
            "resume_worker",
            "Have a drained worker take bunkers again",
            Platform(Permission::Admin),
            workers::resume,
        )
        .param::<WorkerId>("id")
        .answers::<Worker>(200)
        .fails(&[Code::NotFound]),
        Route::delete(
            api!("/workers/{id}"),
            "delete_worker",
            "Forget a worker that is offline and has no bunkers",
            Platform(Permission::Admin),
            workers::remove,
        )
        .param::<WorkerId>("id")
        .with_answer(204, Content::Nothing)
        .fails(&[Code::NotFound, Code::InUse]),
    ]
}

fn from_workers() -> Vec<Route> {
    vec![
        Route::post(
            api!("/workers/register"),
            "register_worker",
            "A worker makes itself known",
            FromWorker,
            worker_side::register,
        )
        .body::<RegisterWorker>()
        .answers::<Registered>(200)
        .fails(&[Code::ProtocolMismatch]),
        // Every worker's every ten seconds: the log would hold little else.
        Route::post(
            api!("/workers/{id}/heartbeat"),
            "beat_worker",
            "A worker is alive, and tells what it holds",
            FromWorker,
            worker_side::heartbeat,
        )
        .unaudited()
        .param::<WorkerId>("id")
        .body::<Heartbeat>()
        .answers::<Heard>(200),
        Route::get(
            api!("/workers/{id}/link"),
            "link_worker",
            "The connection over which a worker serves the controller",
            FromWorker,
            worker_side::link,
        )
        .param::<WorkerId>("id")
        .with_answer(101, Content::Upgrade)
        .fails(&[Code::BadRequest]),
    ]
}

fn storage() -> Vec<Route> {
    vec![
        Route::post(
            api!("/storage/capabilities"),
            "mint_capability",
            "A token for some methods on the objects below a prefix",
            Needs(Permission::ImagesManage),
            storage::mint,
        )
        .body::<MintCapability>()
        .example(json!({
            "prefix": "images/uploads/ten_01932d7e8a1f7c3e9b5d4f6a7c/",
            "methods": ["PUT"],
            "ttl_s": 3600,
        }))
        .answers::<Capability>(201),
        output(),
        Route::elsewhere(
            Method::GET,
            api!("/storage/{*key}"),
            "get_object",
            "An object of the store",
            Proxy,
        )
        .param::<String>("key")
        .with_answer(200, Content::Bytes("application/octet-stream"))
        .with_answer(206, Content::Bytes("application/octet-stream"))
        .fails(&[Code::NotFound, Code::RangeNotSatisfiable]),
        Route::elsewhere(
            Method::PUT,
            api!("/storage/{*key}"),
            "put_object",
            "Store an object",
            Proxy,
        )
        .param::<String>("key")
        .bytes_body()
        .answers::<storage::Stored>(201)
        .fails(&[Code::BadRequest, Code::PayloadTooLarge]),
    ]
}

/// Outputs of commands lie in the storage proxy's paths; callers that are no workers get them here.
pub(super) fn output() -> Route {
    Route::get(
        api!("/storage/output/{id}/{name}"),
        "get_output",
        "The whole output of a command whose answer was cut",
        Needs(Permission::Execute),
        storage::read,
    )
    .param::<BunkerId>("id")
    .param::<String>("name")
    .with_answer(200, Content::Bytes("application/octet-stream"))
    .with_answer(206, Content::Bytes("application/octet-stream"))
    .fails(&[Code::RangeNotSatisfiable])
}

fn audit() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/audit-log",
            "list_audit_entries",
            "Calls that changed something or were to, newest first",
            Reads(Permission::AdminTenant),
            audit::list,
        )
        .query::<audit::AuditQuery>()
        .lists::<AuditEntry>(),
        Route::get(
            "/v1/audit-log/export",
            "export_audit_log",
            "All of them in one file",
            Reads(Permission::AdminTenant),
            audit::export,
        )
        .query::<audit::ExportQuery>()
        .with_answer(200, Content::Bytes("application/x-ndjson"))
        .with_answer(200, Content::Bytes("application/json"))
        .with_answer(200, Content::Bytes("text/csv")),
    ]
}

fn operations() -> Vec<Route> {
    vec![
        Route::get("/health", "get_health", "Whether the process runs", Public, health::alive)
            .answers::<health::Alive>(200),
        Route::get(
            "/health/ready",
            "get_readiness",
            "Whether the process can serve requests",
            Public,
            health::ready,
        )
        .answers::<health::Ready>(200)
        .fails(&[Code::NotReady, Code::ShuttingDown]),
        Route::get(
            "/health/detailed",
            "get_detailed_health",
            "The process, what it depends on, and its background tasks",
            Platform(Permission::Admin),
            health_detailed::detailed,
        )
        .answers::<health_detailed::Detailed>(200),
        Route::get(
            "/metrics",
            "get_metrics",
            "What the process counts, for Prometheus",
            Public,
            metrics::metrics,
        )
        .with_answer(200, Content::Bytes("application/openmetrics-text")),
        Route::get("/openapi.json", "get_openapi", "This document", Public, openapi::serve)
            .with_answer(200, Content::Document),
        Route::get("/docs", "get_docs", "This document, to be read", Public, openapi::page)
            .with_answer(200, Content::Bytes("text/html")),
        Route::get("/docs/docs.js", "get_docs_script", "What shows it", Public, openapi::script)
            .with_answer(200, Content::Bytes("text/javascript")),
        Route::get(
            "/docs/docs.css",
            "get_docs_style",
            "What it looks like",
            Public,
            openapi::style,
        )
        .with_answer(200, Content::Bytes("text/css")),
    ]
}
