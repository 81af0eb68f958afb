//! A URI of a key may hold a password, a token or a signature: no message prints them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};

use super::Keys;
use crate::run::{command, finish};

/// A server that has five bytes under every name.
fn five_bytes() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("port");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let lines = BufReader::new(socket.try_clone().expect("socket")).lines();
            let head = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
            if head.count() > 0 {
                // A client that goes away ends its own connection only.
                let _ = socket.write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
                );
            }
        }
    });
    address
}

#[test]
fn what_is_secret_in_the_uri_of_a_key_is_not_printed() {
    let (keys, address) = (Keys::new(), five_bytes());
    let uri = format!("http://user:PASSWORD@{address}/some.key?token=TOKEN");
    keys.secret("uri.toml", &format!("keyfile = {uri:?}\n"));
    let lines: &[(&[&str], i32)] = &[
        (&["verify", "plain.tensors", "--keyfile", &uri], 5),
        (&["verify", "plain.tensors", "--config", "uri.toml"], 5),
        (&["encrypt", "plain.tensors", "out.tensors", "--keyfile", &uri], 5),
        (&["verify", "plain.tensors", "--passphrase-file", &uri], 2),
        (&["verify", "plain.tensors", "--config", &uri], 2),
        (&["keygen", &uri], 2),
        (
            &[
                "vllm",
                "serialize",
                "--model",
                "m",
                "--serialized-directory",
                "d",
                "--keyfile",
                &uri,
            ],
            2,
        ),
    ];
    for (line, code) in lines {
        for json in [&[][..], &["--json"]] {
            let ran = finish(command(keys.path()).args(*line).args(json));
            let printed = format!("{}{}", ran.stdout, ran.stderr);
            assert_eq!(ran.code, *code, "{line:?}: {printed}");
            let secret = ["user", "PASSWORD", "TOKEN", "token="];
            assert!(secret.iter().all(|word| !printed.contains(word)), "{line:?}: {printed}");
            assert!(printed.contains(&address.to_string()), "{line:?}: {printed}");
        }
    }
}
