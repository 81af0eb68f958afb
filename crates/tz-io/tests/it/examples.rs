//! The examples of the crate do what they say: each asserts its own result.

#[path = "../../examples/custom_transport.rs"]
mod custom_transport;
#[path = "../../examples/encrypt.rs"]
mod encrypt;
#[path = "../../examples/read_one.rs"]
mod read_one;
#[path = "../../examples/stream_capped.rs"]
mod stream_capped;
#[path = "../../examples/write_file.rs"]
mod write_file;

#[test]
fn examples_run() {
    let examples = [
        custom_transport::main,
        encrypt::main,
        read_one::main,
        stream_capped::main,
        write_file::main,
    ];
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    assert_eq!(std::fs::read_dir(folder).expect("examples").count(), examples.len());
    for example in examples {
        example().expect("no error");
    }
}
