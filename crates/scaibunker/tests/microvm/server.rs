//! A server under test and a client of it.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

const START_LIMIT: Duration = Duration::from_secs(300);
const PREFIX: &str = "/v1/modules/scaibunker";

pub struct Server {
    process: Child,
    pub url: String,
    log: Arc<Mutex<String>>,
    pub http: Client<HttpConnector, Full<Bytes>>,
    dir: tempfile::TempDir,
    /// Settings over the usual ones, for the next one in its place as well.
    settings: Vec<(String, String)>,
}

pub struct Answer {
    pub status: StatusCode,
    pub json: Value,
}

impl Answer {
    pub fn of(response: Response<Bytes>) -> Self {
        let bytes = response.body();
        let json = serde_json::from_slice(bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()));
        Self { status: response.status(), json }
    }

    pub fn data(&self) -> &Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.json);
        &self.json["data"]
    }

    pub fn error(&self) -> (u16, &str) {
        (self.status.as_u16(), self.json["error"]["code"].as_str().unwrap_or("none"))
    }
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server whose bunkers outlive a graceful stop.
    pub fn start_keeping() -> Self {
        Self::start_with(&[("SCAIBUNKER_KEEP_BUNKERS", "true")])
    }

    /// A server on what another one left.
    pub fn start_in(dir: tempfile::TempDir) -> Self {
        Self::launch(dir, Vec::new())
    }

    /// A server with these variables in its environment.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let owned = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Self::launch(tempfile::tempdir().unwrap(), owned.collect())
    }

    /// A server whose worker keeps images on a disk of its own, in a mount namespace that ends with
    /// it.
    pub fn start_on_small_image_disk(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = image_disk(dir.path());
        fs::create_dir_all(&images).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={size} images {} && exec \"$0\" \"$@\"",
            images.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_scaibunker")]);
        Self::launch_as(command, dir, Vec::new())
    }

    /// Gives that disk another size.
    pub fn resize_image_disk(&self, size: &str) {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.pid().to_string(), "mount", "-o"]);
        command.arg(format!("remount,size={size}")).arg(image_disk(self.data_dir()));
        assert!(command.status().unwrap().success());
    }

    fn launch(dir: tempfile::TempDir, settings: Vec<(String, String)>) -> Self {
        Self::launch_as(Command::new(env!("CARGO_BIN_EXE_scaibunker")), dir, settings)
    }

    fn launch_as(
        mut command: Command,
        dir: tempfile::TempDir,
        settings: Vec<(String, String)>,
    ) -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let agent = target.join("x86_64-unknown-linux-gnu/guest/scaibunker-guest");
        command
            .args(["up", "--listen", "127.0.0.1:0", "--pool-size", "1"])
            .args(["--accelerator", "tcg"])
            .arg("--data-dir")
            .arg(dir.path())
            .arg("--cache-dir")
            .arg(target.join("tmp/cache"))
            .arg("--guest-agent")
            .arg(agent)
            .env("SCAIBUNKER_LOG", "info")
            .env("SCAIBUNKER_IMAGES", "busybox")
            .env("SCAIBUNKER_TRIVY", "/nonexistent/trivy")
            .env_remove("SCAIBUNKER_WORKER_TOKEN")
            .envs(settings.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (log, url) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(None)));
        let stderr = process.stderr.take().unwrap();
        let (seen, found) = (Arc::clone(&log), Arc::clone(&url));
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(ready) = line.strip_prefix("ready at ") {
                    *found.lock().unwrap() = Some(ready.to_owned());
                }
                let mut log = seen.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let deadline = Instant::now() + START_LIMIT;
        let url = loop {
            if let Some(url) = url.lock().unwrap().clone() {
                break url;
            }
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{}", log.lock().unwrap());
            thread::sleep(Duration::from_millis(20));
        };
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { process, url, log, http, dir, settings }
    }

    /// Kills the server as a crash would, does something, and starts another one in its place.
    pub fn crash_and_restart(mut self, meanwhile: impl FnOnce()) -> Self {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        meanwhile();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        Self::launch(dir, std::mem::take(&mut self.settings))
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scaibunker"));
        command.env("SCAIBUNKER_URL", &self.url).env("SCAIBUNKER_DATA_DIR", self.data_dir());
        command.env_remove("SCAIBUNKER_API_KEY").stdin(Stdio::null());
        command
    }

    pub fn key(&self) -> String {
        fs::read_to_string(self.data_dir().join("admin.key")).unwrap().trim().to_owned()
    }

    /// The address of a route.
    pub fn address(&self, path: &str) -> String {
        format!("{}{PREFIX}{path}", self.url)
    }

    /// Sends a request with the admin key.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(self.address(path))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.into())).unwrap();
        self.http.request(request).await.unwrap()
    }

    /// The same, and reads the whole answer.
    pub async fn fetch(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Bytes> {
        let (head, body) = self.send(method, path, headers, body).await.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let headers: &[_] = match body {
            Some(_) => &[("content-type", "application/json")],
            None => &[],
        };
        let text = body.map(|body| body.to_string()).unwrap_or_default();
        Answer::of(self.fetch(method, path, headers, text).await)
    }

    /// An ordinary curl with the admin key; its arguments follow.
    pub fn curl(&self) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "120", "--header"]);
        command.arg(format!("Authorization: Bearer {}", self.key())).stdin(Stdio::null());
        command
    }

    /// Runs one of the scripts in `clients/`, which speak to the server with other people's
    /// libraries, and returns what it printed.
    pub async fn python(&self, script: &str, arguments: &[&str]) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let mut command = tokio::process::Command::new(target.join("tools/python/bin/python"));
        command
            .arg(root.join("tests/microvm/clients").join(script))
            .args(arguments)
            .env("SCAIBUNKER_URL", &self.url)
            .env("SCAIBUNKER_API_KEY", self.key())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// A running bunker's id.
    pub async fn bunker(&self) -> String {
        let body = json!({ "image": "busybox", "disk_mb": 64, "memory_mb": 256 });
        let answer = self.call(Method::POST, "/bunkers?wait=true", Some(body)).await;
        assert_eq!(answer.data()["status"], "running", "{}", answer.json);
        answer.data()["id"].as_str().unwrap().to_owned()
    }

    pub async fn exec(&self, id: &str, body: Value) -> Answer {
        self.call(Method::POST, &format!("/bunkers/{id}/exec"), Some(body)).await
    }

    /// Runs a shell line as root and returns the answer's data.
    pub async fn sh(&self, id: &str, line: &str) -> Value {
        let body = json!({ "command": line, "user": "root", "timeout_s": 60 });
        self.exec(id, body).await.data().clone()
    }

    pub async fn delete(&self, id: &str) -> Answer {
        self.call(Method::DELETE, &format!("/bunkers/{id}"), None).await
    }

    pub async fn status(&self, id: &str) -> Value {
        self.call(Method::GET, &format!("/bunkers/{id}"), None).await.data().clone()
    }

    /// Directories of the VMs that exist now, those in the pool included.
    pub fn vm_dirs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data_dir().join("worker/vms")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// The VMM's pid of a bunker.
    pub fn vmm_pid(&self, bunker: &str) -> i32 {
        let records = self.vm_dirs().into_iter().filter_map(|dir| {
            let bytes = fs::read(dir.join("record.json")).ok()?;
            serde_json::from_slice::<Value>(&bytes).ok()
        });
        let record = records.into_iter().find(|record| record["claim"]["bunker_id"] == bunker);
        record.unwrap()["process"]["pid"].as_i64().unwrap() as i32
    }

    /// Everything on this machine that carries the name of one of this server's VMs.
    pub fn traces(&self, names: &BTreeSet<String>) -> Vec<String> {
        let mut traces = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if names.iter().any(|name| line.contains(name)) {
                traces.push(format!("process {}", entry.file_name().to_string_lossy()));
            }
        }
        for hierarchy in ["", "cpu", "memory", "pids"] {
            let parent = Path::new("/sys/fs/cgroup").join(hierarchy).join("scaibunker");
            let groups = names.iter().map(|name| parent.join(name)).filter(|path| path.exists());
            traces.extend(groups.map(|path| path.display().to_string()));
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let own = self.data_dir().display().to_string();
        traces.extend(mounts.lines().filter(|line| line.contains(&own)).map(str::to_owned));
        traces
    }

    pub fn vm_names(&self) -> BTreeSet<String> {
        let names = self.vm_dirs().into_iter();
        names.map(|dir| dir.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    /// Stops the server as a service manager would, and returns its data directory.
    pub fn stop(mut self) -> tempfile::TempDir {
        terminate(&mut self.process);
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}

/// Where a worker keeps images.
fn image_disk(data_dir: &Path) -> PathBuf {
    data_dir.join("worker/images")
}

fn terminate(process: &mut Child) {
    let pid = rustix::process::Pid::from_child(process);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let _ = process.wait();
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            terminate(&mut self.process);
        }
    }
}

/// Waits until `done` holds.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
