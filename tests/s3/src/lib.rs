//! An S3 server for tests: `s3s`, which checks signatures as S3 does, over a folder. It runs on a thread of the test's process, and fails as it is told to.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// The one bucket that is there.
pub const BUCKET: &str = "clicks";

/// Who may use it.
pub const ACCESS_KEY: &str = "test-key";

/// With which secret.
pub const SECRET_KEY: &str = "test-secret-4711";

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The answer comes so much later.
    Slow(Duration),
    /// It is refused with this status, nothing was done.
    Status(u16),
    /// It is done, but the connection ends before the answer.
    LostAnswer,
    /// The connection ends in the middle of the answer's body.
    CutBody,
    /// The answer holds half of the body, and says that this is all.
    HalfBody,
}

struct Planned {
    method: Method,
    /// A part of the path.
    of: String,
    fault: Fault,
    /// How many requests may pass before.
    after: usize,
    /// How many it meets.
    times: usize,
}

#[derive(Default)]
struct Plan {
    faults: Mutex<VecDeque<Planned>>,
    seen: Mutex<Vec<(Method, String)>>,
}

impl Plan {
    fn meet(&self, method: &Method, path: &str) -> Option<Fault> {
        self.seen.lock().push((method.clone(), path.to_owned()));
        let mut faults = self.faults.lock();
        let planned = faults
            .iter_mut()
            .find(|planned| planned.times > 0 && planned.method == *method && path.contains(planned.of.as_str()))?;
        if planned.after > 0 {
            planned.after -= 1;
            return None;
        }
        planned.times -= 1;
        Some(planned.fault)
    }
}

/// A server. It ends when it is dropped.
pub struct S3 {
    address: SocketAddr,
    folder: TempDir,
    plan: Arc<Plan>,
    /// What it runs on.
    _runtime: Runtime,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3({})", self.address)
    }
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

impl S3 {
    /// Starts one with an empty bucket.
    pub fn start() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join(BUCKET))?;
        let files = FileSystem::new(folder.path()).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let plan = Arc::new(Plan::default());
        runtime.spawn(serve(listener, service, Arc::clone(&plan)));
        Ok(Self { address, folder, plan, _runtime: runtime })
    }

    /// Where it answers.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The file in which an object is.
    pub fn file(&self, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(key)
    }

    /// The folder of the bucket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// So many requests of this method whose path and query hold `of` fail, after `after` that do not.
    pub fn fail(&self, method: &str, of: &str, fault: Fault, after: usize, times: usize) {
        let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        self.plan.faults.lock().push_back(Planned { method, of: of.to_owned(), fault, after, times });
    }

    /// No request fails any more.
    pub fn heal(&self) {
        self.plan.faults.lock().clear();
    }

    /// How many requests of this method there were whose path and query hold `of`.
    pub fn requests(&self, method: &str, of: &str) -> usize {
        self.plan.seen.lock().iter().filter(|(seen, path)| seen.as_str() == method && path.contains(of)).count()
    }
}

async fn serve(listener: TcpListener, service: S3Service, plan: Arc<Plan>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (service, plan) = (service.clone(), Arc::clone(&plan));
        tokio::spawn(async move {
            let each = service_fn(move |request| answer(service.clone(), Arc::clone(&plan), request));
            // What is wrong with a connection, its other end learns.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), each).await;
        });
    }
}

async fn answer(service: S3Service, plan: Arc<Plan>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let is_head = *request.method() == Method::HEAD;
    let fault = plan.meet(request.method(), &request.uri().to_string());
    // Without a body none can be cut.
    let fault = fault.filter(|fault| !(is_head && matches!(fault, Fault::CutBody | Fault::HalfBody)));
    match fault {
        Some(Fault::Slow(wait)) => tokio::time::sleep(wait).await,
        Some(Fault::Status(status)) => {
            let mut refused = Response::new(Empty::new().map_err(never).boxed_unsync());
            *refused.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Ok(refused);
        }
        Some(Fault::LostAnswer | Fault::CutBody | Fault::HalfBody) | None => {}
    }
    let answer = Service::call(&service, request).await.map_err(|error| io::Error::other(format!("{error:?}")))?;
    let (mut head, body) = answer.into_parts();
    let cut = || io::Error::new(io::ErrorKind::ConnectionReset, "cut as planned");
    match fault {
        Some(Fault::LostAnswer) => Err(cut()),
        Some(fault @ (Fault::CutBody | Fault::HalfBody)) => {
            let all = body.collect().await.map_err(|error| io::Error::other(error.to_string()))?.to_bytes();
            let half = all.slice(..all.len() / 2);
            if fault == Fault::HalfBody {
                head.headers.insert(header::CONTENT_LENGTH, half.len().into());
                return Ok(Response::from_parts(head, Full::new(half).map_err(never).boxed_unsync()));
            }
            head.headers.insert(header::CONTENT_LENGTH, all.len().into());
            let frames = stream::iter([Ok(Frame::data(half)), Err(cut())]);
            Ok(Response::from_parts(head, StreamBody::new(frames).boxed_unsync()))
        }
        Some(Fault::Slow(_) | Fault::Status(_)) | None => {
            let body = body.map_err(|error| io::Error::other(error.to_string())).boxed_unsync();
            Ok(Response::from_parts(head, body))
        }
    }
}

fn never(error: Infallible) -> io::Error {
    match error {}
}
