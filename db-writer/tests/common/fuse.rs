//! A store that is cut off at a given operation.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path as StorePath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};

type Answer<T> = object_store::Result<T>;

/// A store that is cut off after some operations, before or after the last one was done.
#[derive(Debug)]
pub struct Fuse {
    inner: Arc<InMemory>,
    left: Arc<AtomicUsize>,
    last_is_done: bool,
}

impl fmt::Display for Fuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fuse")
    }
}

fn cut<T>() -> Answer<T> {
    Err(object_store::Error::Generic { store: "fuse", source: "cut off".into() })
}

impl Fuse {
    /// A store that is cut off at its `operations`-th one, which is done or not.
    pub fn new(inner: Arc<InMemory>, operations: usize, last_is_done: bool) -> Self {
        Self { inner, left: Arc::new(AtomicUsize::new(operations)), last_is_done }
    }

    /// Whether the next operation is done, and whether it is told so.
    fn next(&self) -> (bool, bool) {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(left) if left > 1 => (true, true),
            Ok(_) => (self.last_is_done, false),
            Err(_) => (false, false),
        }
    }
}

#[async_trait::async_trait]
impl ObjectStore for Fuse {
    async fn put_opts(&self, path: &StorePath, payload: PutPayload, options: PutOptions) -> Answer<PutResult> {
        let (done, told) = self.next();
        let answer = if done { self.inner.put_opts(path, payload, options).await } else { cut() };
        if told { answer } else { cut() }
    }

    async fn put_multipart_opts(&self, _: &StorePath, _: PutMultipartOptions) -> Answer<Box<dyn MultipartUpload>> {
        panic!("files are put whole")
    }

    async fn get_opts(&self, path: &StorePath, options: GetOptions) -> Answer<GetResult> {
        if self.next().1 { self.inner.get_opts(path, options).await } else { cut() }
    }

    async fn get_ranges(&self, path: &StorePath, ranges: &[Range<u64>]) -> Answer<Vec<Bytes>> {
        if self.next().1 { self.inner.get_ranges(path, ranges).await } else { cut() }
    }

    fn delete_stream(&self, paths: BoxStream<'static, Answer<StorePath>>) -> BoxStream<'static, Answer<StorePath>> {
        let (done, told) = self.next();
        let answers = if done { self.inner.delete_stream(paths) } else { paths.and_then(|_| async { cut() }).boxed() };
        if told { answers } else { answers.and_then(|_| async { cut() }).boxed() }
    }

    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, Answer<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&StorePath>) -> Answer<ListResult> {
        if self.next().1 { self.inner.list_with_delimiter(prefix).await } else { cut() }
    }

    async fn copy_opts(&self, _: &StorePath, _: &StorePath, _: CopyOptions) -> Answer<()> {
        panic!("nothing is copied")
    }
}
