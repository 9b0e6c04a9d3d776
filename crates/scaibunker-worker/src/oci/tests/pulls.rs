use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use scaibunker_api::{image::RegistryAuth, worker::ImageFaultCause};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    images::{Layout, digest, noise, tar_of},
    registry::{Auth, PASSWORD, TestRegistry, USER},
    token_server::TokenServer,
};
use crate::{
    bake::Compression,
    oci::{LayerCache, OciError, Progress, PulledImage, Registry, RegistrySettings},
};

struct Home {
    registry: Registry,
    cache: LayerCache,
    _dir: TempDir,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = RegistrySettings { allow_loopback: true, ..RegistrySettings::default() };
        Self {
            registry: Registry::new(settings).unwrap(),
            cache: LayerCache::open(dir.path().join("layers")).unwrap(),
            _dir: dir,
        }
    }

    async fn pull(&self, name: &str, auth: Option<&RegistryAuth>) -> Result<PulledImage, OciError> {
        self.registry.pull(name, auth, &self.cache, &|_| {}).await
    }
}

fn user(password: &str) -> RegistryAuth {
    RegistryAuth { username: USER.to_owned(), password: password.to_owned() }
}

fn two_layers() -> [Vec<u8>; 2] {
    [tar_of("a", b"first"), tar_of("b", b"second")]
}

#[tokio::test]
async fn a_pulled_image_has_its_layers_its_configuration_and_its_digest() {
    let server = TestRegistry::start(Auth::Anybody);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let layout = Layout::new(&two_layers(), compression);
        server.push(layout.path(), "team/app:1");
        let home = Home::new();
        let name = format!("{}/team/app:1", server.host());
        let seen = Mutex::new(Vec::new());
        let note = |progress: Progress| seen.lock().unwrap().push(progress);
        let pulled = home.registry.pull(&name, None, &home.cache, &note).await.unwrap();
        assert_eq!(pulled.manifest_digest.as_deref(), Some(layout.manifest_digest.as_str()));
        assert_eq!((pulled.config.user.as_str(), pulled.config.workdir.as_str()), ("1000", "/srv"));
        for ((layer, blob), tar) in pulled.layers.iter().zip(&layout.layers).zip(two_layers()) {
            assert_eq!(layer.compression, compression);
            assert_eq!(&digest(&fs::read(&layer.path).unwrap()), blob);
            assert_eq!(layer.diff_id, Some(digest(&tar)));
        }
        let last = *seen.lock().unwrap().last().unwrap();
        assert_eq!(last.done_bytes, last.total_bytes);
        let pinned = format!("{}/team/app@{}", server.host(), layout.manifest_digest);
        home.pull(&pinned, None).await.unwrap();
    }
}

#[tokio::test]
async fn a_password_is_asked_for_and_checked() {
    let server = TestRegistry::start(Auth::Password);
    let layout = Layout::new(&two_layers(), Compression::Gzip);
    server.push(layout.path(), "app:1");
    let (home, name) = (Home::new(), format!("{}/app:1", server.host()));
    home.pull(&name, Some(&user(PASSWORD))).await.unwrap();
    let nobody = home.pull(&name, None).await.unwrap_err();
    let wrong = home.pull(&name, Some(&user("wrong secret"))).await.unwrap_err();
    for (error, hint) in [(nobody, "set the image's registry_auth"), (wrong, "correct the image's")]
    {
        assert_eq!(error.cause(), ImageFaultCause::RegistryAuth);
        let text = error.to_string();
        assert!(text.starts_with("registry authentication failed: "), "{text}");
        assert!(text.contains(hint) && !text.contains("wrong secret"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_is_asked_and_its_token_renewed() {
    let tokens = TokenServer::start().await;
    let server = TestRegistry::start(Auth::Token {
        realm: tokens.realm(),
        certificate: tokens.certificate().to_owned(),
    });
    let layout = Layout::new(&two_layers(), Compression::Gzip);
    server.push(layout.path(), "app:1");
    let (home, name) = (Home::new(), format!("{}/app:1", server.host()));
    home.pull(&name, Some(&user(PASSWORD))).await.unwrap();
    let wrong = home.pull(&name, Some(&user("wrong"))).await.unwrap_err();
    assert_eq!(wrong.cause(), ImageFaultCause::RegistryAuth);
    let nobody = home.pull(&name, None).await.unwrap_err();
    assert_eq!(nobody.cause(), ImageFaultCause::RegistryAuth, "{nobody}");
    // The first token that is given has run out; the registry says so and a new one is fetched.
    tokens.give_expired(1);
    Home::new().pull(&name, Some(&user(PASSWORD))).await.unwrap();
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let server = TestRegistry::start(Auth::Anybody);
    let layout = Layout::new(&two_layers(), Compression::Gzip);
    server.push(layout.path(), "app:1");
    let home = Home::new();
    let absent = digest(b"absent");
    for name in ["app:2".to_owned(), "other:1".to_owned(), format!("app@{absent}")] {
        let error = home.pull(&format!("{}/{name}", server.host()), None).await.unwrap_err();
        assert_eq!(error.cause(), ImageFaultCause::NotFound, "{error}");
        assert!(error.to_string().contains("registry_auth"), "{error}");
    }
}

#[tokio::test]
async fn the_image_of_this_platform_is_taken() {
    let server = TestRegistry::start(Auth::Anybody);
    let layout = Layout::new(&two_layers(), Compression::Gzip);
    layout.for_platforms(&["arm64", "amd64"]);
    server.push(layout.path(), "both:1");
    let home = Home::new();
    let pulled = home.pull(&format!("{}/both:1", server.host()), None).await.unwrap();
    assert_eq!(pulled.manifest_digest.as_deref(), Some(layout.manifest_digest.as_str()));
    layout.for_platforms(&["arm64"]);
    server.push(layout.path(), "other:1");
    let error = home.pull(&format!("{}/other:1", server.host()), None).await.unwrap_err();
    assert!(error.to_string().contains("linux/arm64"), "{error}");
}

#[tokio::test]
async fn a_damaged_layer_is_not_kept() {
    let server = TestRegistry::start(Auth::Anybody);
    let layout = Layout::new(&two_layers(), Compression::Gzip);
    server.push(layout.path(), "app:1");
    let blob = server.blob_path(&layout.layers[0]);
    let good = fs::read(&blob).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(&blob, &bad).unwrap();
    let (home, name) = (Home::new(), format!("{}/app:1", server.host()));
    let error = home.pull(&name, None).await.unwrap_err();
    assert_eq!(error.cause(), ImageFaultCause::DigestMismatch, "{error}");
    fs::write(&blob, &good).unwrap();
    home.pull(&name, None).await.unwrap();
}

/// Passes connections on, and cuts each off after so many bytes towards the client.
async fn cutting_proxy(to: u16, cut_after: Arc<AtomicUsize>, passed: Arc<AtomicU64>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
            let (cut_after, passed) = (Arc::clone(&cut_after), Arc::clone(&passed));
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let up = tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                });
                let (mut piece, mut count) = (vec![0; 16 * 1024], 0);
                while let Ok(read @ 1..) = from_server.read(&mut piece).await {
                    count += read;
                    passed.fetch_add(read as u64, Ordering::Relaxed);
                    if count > cut_after.load(Ordering::Relaxed)
                        || to_client.write_all(&piece[..read]).await.is_err()
                    {
                        break;
                    }
                }
                up.abort();
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_goes_on_where_it_broke_off() {
    const LAYER: usize = 4 << 20;
    let server = TestRegistry::start(Auth::Anybody);
    let layout = Layout::new(&[tar_of("noise", &noise(1, LAYER))], Compression::None);
    server.push(layout.path(), "app:1");
    let (cut_after, passed) = (Arc::new(AtomicUsize::new(LAYER / 3)), Arc::new(AtomicU64::new(0)));
    let port = cutting_proxy(server.port(), Arc::clone(&cut_after), Arc::clone(&passed)).await;
    let home = Home::new();
    home.pull(&format!("127.0.0.1:{port}/app:1"), None).await.unwrap();
    let passed = passed.load(Ordering::Relaxed);
    // Each cut loses what was under way between the two.
    assert!(passed < (LAYER + LAYER / 2) as u64, "{passed} bytes for a layer of {LAYER}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_went_half_way_is_gone_on_with_by_the_next_pull() {
    const LAYER: usize = 4 << 20;
    let mut server = TestRegistry::start(Auth::Anybody);
    let layout = Layout::new(&[tar_of("noise", &noise(2, LAYER))], Compression::None);
    server.push(layout.path(), "app:1");
    let (cut_after, passed) = (Arc::new(AtomicUsize::new(LAYER / 2)), Arc::new(AtomicU64::new(0)));
    let port = cutting_proxy(server.port(), Arc::clone(&cut_after), Arc::clone(&passed)).await;
    let (home, name) = (Home::new(), format!("127.0.0.1:{port}/app:1"));
    let cut_the_rest = |progress: Progress| {
        if progress.done_bytes > 0 {
            cut_after.store(0, Ordering::Relaxed);
        }
    };
    let pulled = home.registry.pull(&name, None, &home.cache, &cut_the_rest).await;
    let error = pulled.unwrap_err();
    assert_eq!(error.cause(), ImageFaultCause::RegistryUnreachable, "{error}");
    assert!(error.to_string().starts_with("registry unreachable: "), "{error}");
    let partial = home.cache.list().unwrap().iter().map(|layer| layer.size_bytes).max().unwrap();
    assert!(partial > 0 && partial < LAYER as u64, "{partial}");
    server.restart();
    cut_after.store(usize::MAX, Ordering::Relaxed);
    passed.store(0, Ordering::Relaxed);
    home.pull(&name, None).await.unwrap();
    let passed = passed.load(Ordering::Relaxed);
    assert!(passed < LAYER as u64, "{passed} bytes were sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_at_once_fetch_each_layer_once() {
    let server = TestRegistry::start(Auth::Anybody);
    let base = tar_of("noise", &noise(3, 1 << 20));
    let one = Layout::new(&[base.clone(), tar_of("one", b"1")], Compression::Gzip);
    let two = Layout::new(&[base, tar_of("two", b"2")], Compression::Gzip);
    server.push(one.path(), "one:1");
    server.push(two.path(), "two:1");
    assert_eq!(one.layers[0], two.layers[0]);
    let home = Home::new();
    let name = |name: &str| format!("{}/{name}:1", server.host());
    let (names, again) = ([name("one"), name("two")], name("one"));
    let (a, b, c) = tokio::join!(
        home.pull(&names[0], None),
        home.pull(&names[1], None),
        home.pull(&again, None)
    );
    let pulled = [a.unwrap(), b.unwrap(), c.unwrap()];
    let log = server.log();
    let fetched = |digest: &str| {
        let is_fetch = |line: &&str| {
            line.contains("response completed")
                && line.contains("http.request.method=GET")
                && line.contains(digest)
        };
        log.lines().filter(is_fetch).count()
    };
    assert_eq!(fetched(&one.layers[0]), 1, "{log}");
    let cached = home.cache.list().unwrap();
    assert!(
        cached.len() == 3 && cached.iter().all(|layer| layer.in_use && !home.cache.evict(layer))
    );
    drop(pulled);
    let cached = home.cache.list().unwrap();
    assert!(cached.iter().all(|layer| !layer.in_use && home.cache.evict(layer)));
    assert!(home.cache.list().unwrap().is_empty());
}

#[tokio::test]
async fn loopback_is_out_of_reach_unless_it_is_allowed() {
    let server = TestRegistry::start(Auth::Anybody);
    let home = Home::new();
    let strict = Registry::new(RegistrySettings::default()).unwrap();
    for host in [server.host(), format!("localhost:{}", server.port())] {
        let pulled = strict.pull(&format!("{host}/app:1"), None, &home.cache, &|_| {}).await;
        assert_eq!(pulled.unwrap_err().cause(), ImageFaultCause::Refused);
    }
}
