//! Serves the folders in a folder as S3 buckets on 127.0.0.1: `xtask-s3-server DIR PORT`. Started by
//! `cargo xtask` where Garage is not there.
//!
//! Requests must be signed with the keys in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.

use anyhow::{Context, Result, bail};
use hyper::body::Incoming;
use hyper::header::{ACCEPT_RANGES, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, port] = &*arguments else {
        bail!("usage: xtask-s3-server DIR PORT");
    };
    let key = |name: &str| std::env::var(name).with_context(|| name.to_owned());
    let auth =
        SimpleAuth::from_single(key("AWS_ACCESS_KEY_ID")?, key("AWS_SECRET_ACCESS_KEY")?.as_str());
    let Ok(files) = FileSystem::new(folder) else {
        bail!("{folder}: not a folder");
    };
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(auth);
    let service = builder.build();

    let listener = TcpListener::bind(("127.0.0.1", port.parse().context("PORT")?)).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let service = service.clone();
        let answer = service_fn(move |request: hyper::Request<Incoming>| {
            let service = service.clone();
            async move {
                let answer = service.call(request.map(s3s::Body::from)).await;
                // S3 says so with every object, and the reference reads in parallel only where a server does.
                answer.map(|mut answer| {
                    answer.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
                    answer
                })
            }
        });
        tokio::spawn(async move {
            // A client that goes away ends its own connection only.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}
