//! An S3 server in this process, on 127.0.0.1. Owns [`S3`].

use std::path::{Path, PathBuf};
use std::process::Command;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::run;

const ACCESS_KEY_ID: &str = "AKIDEXAMPLE";
const SECRET_ACCESS_KEY: &str = "secret-of-the-tests";

/// One empty bucket called `bucket`, served until this is dropped.
pub(crate) struct S3 {
    endpoint: String,
    buckets: TempDir,
    _runtime: Runtime,
}

impl S3 {
    pub(crate) fn start() -> Self {
        let buckets = tempfile::tempdir().expect("folder");
        std::fs::create_dir(buckets.path().join("bucket")).expect("bucket");
        let mut builder = S3ServiceBuilder::new(FileSystem::new(buckets.path()).expect("folder"));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        let service = builder.build();
        let runtime = Runtime::new().expect("runtime");
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("port");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let service = service.clone();
                    async move { service.call(request.map(s3s::Body::from)).await }
                });
                tokio::spawn(async move {
                    // A client that goes away ends its own connection only.
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
                });
            }
        });
        Self { endpoint, buckets, _runtime: runtime }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where the object is kept.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.buckets.path().join("bucket").join(key)
    }

    /// `tz-cli` with the server's keys in its environment, and its endpoint as an option.
    pub(crate) fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = run::command(folder);
        command.args(arguments).args(["--s3-endpoint", &self.endpoint, "--s3-region", "us-east-1"]);
        credentials(&mut command, folder);
        command
    }

    /// All that leads a program here by its environment alone.
    pub(crate) fn environment<'a>(
        &self,
        program: &'a mut Command,
        folder: &Path,
    ) -> &'a mut Command {
        credentials(program, folder)
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_REGION", "us-east-1")
    }

    pub(crate) fn tz(&self, folder: &Path, arguments: &[&str]) -> run::Ran {
        run::finish(&mut self.command(folder, arguments))
    }
}

/// The server's keys, and a home where no other stand.
fn credentials<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", folder)
}
