//! The example of the crate does what it says: it asserts its own result.

#[path = "../../examples/push_decoder.rs"]
mod push_decoder;

#[test]
fn examples_run() {
    push_decoder::main().expect("no error");
}
