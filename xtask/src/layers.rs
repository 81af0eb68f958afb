//! The layer table: which of our crates may use which, and what must stay out of reach.
//! `cargo xtask layers` checks it against `cargo metadata`, and so does this file's test.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::workspace;

/// One crate's place. Edges point down only, dev-dependencies included.
struct Layer {
    name: &'static str,
    /// Our crates that it may depend on.
    may_use: &'static [&'static str],
    /// Packages that nothing it ships may pull in, however indirectly.
    out_of_reach: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer {
        name: "tz-format",
        may_use: &[],
        out_of_reach: &["tokio", "object_store", "cust", "rand"],
    },
    Layer {
        name: "tz-crypto",
        may_use: &["tz-format"],
        out_of_reach: &["tokio", "object_store", "cust"],
    },
    Layer { name: "tz-io", may_use: &["tz-format", "tz-crypto"], out_of_reach: &["cust"] },
    Layer {
        name: "tz-model",
        may_use: &["tz-format", "tz-crypto", "tz-io"],
        out_of_reach: &["cust"],
    },
    Layer {
        name: "tz-lora",
        may_use: &["tz-format", "tz-crypto", "tz-io", "tz-model"],
        out_of_reach: &["cust"],
    },
    Layer { name: "tz-cuda-shim", may_use: &[], out_of_reach: &[] },
    Layer { name: "tz-gpu", may_use: &["tz-format", "tz-io", "tz-cuda-shim"], out_of_reach: &[] },
    Layer { name: "tz-cli", may_use: LIBRARIES, out_of_reach: &[] },
    Layer { name: "xtask", may_use: LIBRARIES, out_of_reach: &[] },
    Layer { name: "xtask-s3-server", may_use: &[], out_of_reach: &[] },
    Layer { name: "fuzz-harness", may_use: LIBRARIES, out_of_reach: &[] },
];

const LIBRARIES: &[&str] =
    &["tz-format", "tz-crypto", "tz-io", "tz-model", "tz-lora", "tz-gpu", "tz-cuda-shim"];

/// Checks the workspace; every wrong edge is named.
pub(crate) fn run() -> Result<()> {
    let metadata = workspace::metadata(&["--all-features"])?;
    let metadata: Metadata =
        serde_json::from_slice(&metadata).context("cargo metadata: unexpected JSON")?;
    let faults = faults(&metadata);
    if faults.is_empty() {
        println!("layers: {} crates keep to the table", metadata.workspace_members.len());
        return Ok(());
    }
    bail!("layers:\n  {}", faults.join("\n  "))
}

fn faults(metadata: &Metadata) -> Vec<String> {
    let members: BTreeSet<&str> =
        metadata.workspace_members.iter().map(|id| metadata.name_of(id)).collect();
    let mut faults = Vec::new();
    for id in &metadata.workspace_members {
        let name = metadata.name_of(id);
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
            faults.push(format!("{name}: not in the layer table of xtask/src/layers.rs"));
            continue;
        };
        let declared = metadata.packages.iter().find(|package| package.id == *id);
        for dependency in declared.map(|package| &*package.dependencies).unwrap_or_default() {
            let ours = members.contains(&*dependency.name) && dependency.name != name;
            if ours && !layer.may_use.contains(&&*dependency.name) {
                let kind = dependency.kind.as_deref().unwrap_or("normal");
                faults.push(format!("{name} -> {} ({kind} dependency)", dependency.name));
            }
        }
        for path in metadata.shipped_paths(id) {
            if path.last().is_some_and(|last| layer.out_of_reach.contains(last)) {
                faults.push(path.join(" -> "));
            }
        }
    }
    faults
}

/// `cargo metadata`, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    dependencies: Vec<Dependency>,
}

/// A dependency as the manifest declares it.
#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

/// A dependency as cargo resolved it.
#[derive(Debug, Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Debug, Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

impl Metadata {
    fn name_of<'a>(&'a self, id: &'a str) -> &'a str {
        self.packages.iter().find(|package| package.id == id).map_or(id, |package| &package.name)
    }

    /// A shortest chain of names to every package that `from` ships: normal and build
    /// dependencies on any platform, but not what only its tests use.
    fn shipped_paths<'a>(&'a self, from: &'a str) -> Vec<Vec<&'a str>> {
        let edges: BTreeMap<&str, &[Edge]> =
            self.resolve.nodes.iter().map(|node| (&*node.id, &*node.deps)).collect();
        let mut seen = BTreeSet::from([from]);
        let mut queue = VecDeque::from([(from, vec![self.name_of(from)])]);
        let mut paths = Vec::new();
        while let Some((id, path)) = queue.pop_front() {
            for edge in edges.get(id).copied().unwrap_or_default() {
                let shipped = edge.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"));
                if shipped && seen.insert(&edge.pkg) {
                    let mut path = path.clone();
                    path.push(self.name_of(&edge.pkg));
                    paths.push(path.clone());
                    queue.push_back((&edge.pkg, path));
                }
            }
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_workspace_keeps_its_layers() {
        run().unwrap();
    }

    /// A workspace of these crates with these edges (from, to, kind); `serde` and `tokio` are
    /// packages from elsewhere.
    fn synthetic(ours: &[&str], edges: &[(&str, &str, Option<&str>)]) -> Metadata {
        let names: Vec<&str> = ours.iter().copied().chain(["serde", "tokio"]).collect();
        let of = |name: &str, entry: &dyn Fn(&str, Option<&str>) -> Value| -> Vec<Value> {
            let outgoing = edges.iter().filter(|(from, ..)| *from == name);
            outgoing.map(|(_, to, kind)| entry(to, *kind)).collect()
        };
        let packages: Vec<Value> = names
            .iter()
            .map(|name| {
                let declared = of(name, &|to, kind| json!({"name": to, "kind": kind}));
                json!({"id": format!("id {name}"), "name": name, "dependencies": declared})
            })
            .collect();
        let nodes: Vec<Value> = names
            .iter()
            .map(|name| {
                let resolved = of(
                    name,
                    &|to, kind| json!({"pkg": format!("id {to}"), "dep_kinds": [{"kind": kind}]}),
                );
                json!({"id": format!("id {name}"), "deps": resolved})
            })
            .collect();
        let members: Vec<String> = ours.iter().map(|name| format!("id {name}")).collect();
        serde_json::from_value(json!({
            "packages": packages,
            "workspace_members": members,
            "resolve": {"nodes": nodes},
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(ours: &[&str], edges: &[(&str, &str, Option<&str>)], expect: &[&str]) {
        assert_eq!(faults(&synthetic(ours, edges)), expect);
    }

    #[test]
    fn wrong_edges_are_named() {
        let all = ["tz-format", "tz-io", "tz-gpu", "tz-lora", "tz-cli"];
        check(&all, &[("tz-io", "tz-format", None), ("tz-cli", "tz-gpu", None)], &[]);
        check(&all, &[("tz-lora", "tz-gpu", Some("dev"))], &["tz-lora -> tz-gpu (dev dependency)"]);
        check(&all, &[("tz-format", "tz-io", None)], &["tz-format -> tz-io (normal dependency)"]);
        check(
            &["tz-surprise"],
            &[],
            &["tz-surprise: not in the layer table of xtask/src/layers.rs"],
        );
    }

    #[test]
    fn packages_out_of_reach_are_found_behind_others() {
        let ours = ["tz-format", "tz-io"];
        let through = [("tz-format", "serde", None), ("serde", "tokio", None)];
        check(&ours, &through, &["tz-format -> serde -> tokio"]);
        let only_tests = [("tz-format", "serde", Some("dev")), ("serde", "tokio", None)];
        check(&ours, &only_tests, &[]);
        check(&ours, &[("tz-io", "tokio", None)], &[]);
    }
}
