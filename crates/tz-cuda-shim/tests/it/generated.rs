//! Writes `src/generated.rs` from the sources of `cust` and `cust_raw`, and checks that it is as written.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Functions that `cust` does not call: pinning flags, registration, queries, peers and sharing, and what a load
/// into memory of others needs: rows with a pitch, their stream's context, captures.
const EXTRA: &[&str] = &[
    "cuCtxEnablePeerAccess",
    "cuDeviceCanAccessPeer",
    "cuDeviceGetPCIBusId",
    "cuDeviceGetUuid",
    "cuGetErrorName",
    "cuIpcCloseMemHandle",
    "cuIpcGetMemHandle",
    "cuIpcOpenMemHandle_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemHostGetFlags",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemcpy2DAsync_v2",
    "cuMemcpyPeerAsync",
    "cuPointerGetAttribute",
    "cuStreamCreate",
    "cuStreamGetCtx",
    "cuStreamIsCapturing",
    "cuStreamQuery",
    "cuThreadExchangeStreamCaptureMode",
];

/// With this variable set the file is written instead of checked.
const UPDATE_VARIABLE: &str = "TZ_UPDATE";

#[test]
fn the_list_covers_what_cust_calls_as_cust_raw_declares_it() {
    let (cust, cust_raw) = (source_of("cust-0.3.2"), source_of("cust_raw-0.11.3"));
    let declarations = std::fs::read_to_string(cust_raw.join("src/cuda.rs")).unwrap();
    let mut wanted: BTreeSet<String> = EXTRA.iter().map(|name| (*name).to_owned()).collect();
    collect_names(&cust.join("src"), &mut wanted);
    let text = render(&declarations, &wanted);

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated.rs");
    if std::env::var_os(UPDATE_VARIABLE).is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap();
    assert!(
        checked_in == text,
        "run this test with {UPDATE_VARIABLE}=1 to write {}",
        path.display()
    );
}

/// Folder of a dependency's sources, where cargo unpacks what it downloads from a registry.
fn source_of(package: &str) -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home =
        home.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"));
    let sources = home.join("registry/src");
    let registries = std::fs::read_dir(&sources).unwrap();
    let mut folders = registries.map(|registry| registry.unwrap().path().join(package));
    let found = folders.find(|folder| folder.is_dir());
    found.unwrap_or_else(|| panic!("no {package} under {}", sources.display()))
}

/// Every word in the Rust files of `folder` that may name a driver function.
fn collect_names(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect_names(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            names.extend(words.filter(|word| word.starts_with("cu")).map(str::to_owned));
        }
    }
}

/// The list in the order of the declarations' names, and the result codes in the order of their values.
fn render(declarations: &str, wanted: &BTreeSet<String>) -> String {
    let mut functions: Vec<(&str, String)> =
        functions(declarations).filter(|(name, _)| wanted.contains(*name)).collect();
    functions.sort_unstable();
    let mut text = String::from(
        "//! Functions and result codes, written by `tests/it/generated.rs` from the sources of `cust` and\n\
         //! `cust_raw`: do not edit. Owns `SYMBOLS` and `RESULTS`.\n\
         #![allow(unsafe_code, reason = \"exported C functions that call C functions found at run time\")]\n\
         #![allow(non_snake_case, non_upper_case_globals, reason = \"the names are the driver's\")]\n",
    );
    let types = |prefixes: &[&str]| {
        let arguments = functions.iter().map(|(_, arguments)| arguments);
        let words =
            arguments.flat_map(|text| text.split(|c: char| c != '_' && !c.is_alphanumeric()));
        let types = words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)));
        types.collect::<BTreeSet<&str>>()
    };
    text.push_str("\nuse std::ffi::{");
    text.push_str(&Vec::from_iter(types(&["c_"])).join(", "));
    text.push_str("};\n\nuse cust_raw::{\n");
    for name in types(&["CU", "cuuint"]) {
        writeln!(text, "    {name},").unwrap();
    }
    text.push_str(
        "};\n\n/// Result codes that `cust_raw` knows, ascending.\n\
         pub(crate) static RESULTS: &[CUresult] = &[\n",
    );
    for name in results(declarations) {
        writeln!(text, "    CUresult::{name},").unwrap();
    }
    text.push_str("];\n\nforward! {\n");
    for (name, arguments) in functions {
        let line = format!("    fn {name}({arguments});");
        if line.len() <= 100 {
            writeln!(text, "{line}").unwrap();
        } else {
            let arguments = arguments.replace(", ", ",\n        ");
            writeln!(text, "    fn {name}(\n        {arguments},\n    );").unwrap();
        }
    }
    text.push_str("}\n");
    text
}

fn results(declarations: &str) -> impl Iterator<Item = &str> {
    let (_, rest) = declarations.split_once("pub enum cudaError_enum {").unwrap();
    let (body, _) = rest.split_once('}').unwrap();
    body.split(',').filter_map(|line| Some(line.split_once('=')?.0.trim()))
}

/// Name and arguments of every declaration that gives a result code.
fn functions(declarations: &str) -> impl Iterator<Item = (&str, String)> {
    declarations.split("pub fn ").skip(1).filter_map(|declaration| {
        let (declaration, _) = declaration.split_once(';')?;
        let (head, result) = declaration.rsplit_once("->")?;
        let (name, arguments) = head.trim().strip_suffix(')')?.split_once('(')?;
        let arguments = arguments.replace("::std::os::raw::", "").replace("::std::option::", "");
        let words: Vec<&str> = arguments.split_whitespace().collect();
        let arguments = words.join(" ");
        let arguments = arguments.strip_suffix(',').unwrap_or(&arguments);
        (result.trim() == "CUresult").then(|| (name, arguments.to_owned()))
    })
}
