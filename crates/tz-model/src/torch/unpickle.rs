//! A pickle machine that can rebuild tensors and nothing else. Owns the opcodes, the stack and the memo.
//!
//! Python's unpickler calls whatever a file names, so a checkpoint can run programs. This one knows a short list of
//! names ([`super::objects`]) and turns each into a description; any other name is refused. Values live in one list and
//! refer to each other by number, so shared and cyclic structures cost nothing and nothing recurses.

use std::collections::HashMap;

use super::objects::{self, Global, Storage, Tensor, Value};
use crate::error::Fault;

/// Most opcodes that are carried out; a tensor needs about thirty. Each makes at most one value of
/// 32 bytes.
const MAX_OPCODES: u64 = 4_000_000;

/// Number of a value.
pub(super) type Id = usize;

/// A value that the pickle has built.
///
/// None is ever copied: a pickle can name a large value a million times.
#[derive(Debug)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Bytes and large integers: legal, and of no use here.
    Opaque,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// Also an `OrderedDict`.
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(Box<Tensor>),
}

/// Everything that a pickle has built, and which value it stands for.
#[derive(Debug)]
pub(super) struct Objects {
    nodes: Vec<Node>,
    pub(super) root: Id,
}

impl Objects {
    pub(super) fn node(&self, id: Id) -> &Node {
        self.nodes.get(id).unwrap_or(&Node::None)
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Objects,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

/// Carries out a pickle.
///
/// # Errors
/// [`Fault::Pickle`] with the place of the opcode, or [`Fault::RefusedGlobal`] with the name.
pub(super) fn unpickle(bytes: &[u8]) -> Result<Objects, Fault> {
    let mut machine = Machine {
        bytes,
        at: 0,
        objects: Objects { nodes: Vec::new(), root: 0 },
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    for _ in 0..MAX_OPCODES {
        let offset = machine.at as u64;
        match machine.step() {
            Ok(true) => {}
            Ok(false) => return Ok(machine.objects),
            Err(Stop::Why(why)) => return Err(Fault::Pickle { offset, why }),
            Err(Stop::Global(name)) => return Err(Fault::RefusedGlobal(name)),
        }
    }
    let offset = machine.at as u64;
    let why = "more opcodes than any checkpoint has";
    Err(Fault::Pickle { offset, why })
}

/// Why the machine stops before the pickle does.
#[derive(Debug)]
pub(super) enum Stop {
    Why(&'static str),
    Global(String),
}

impl From<&'static str> for Stop {
    fn from(why: &'static str) -> Self {
        Self::Why(why)
    }
}

impl<'a> Machine<'a> {
    /// Carries out one opcode; false at the end of the pickle.
    fn step(&mut self) -> Result<bool, Stop> {
        match self.take::<1>()? {
            [0x80] => {
                if self.len::<1>()? > 5 {
                    return Err("unknown pickle protocol".into());
                }
            }
            [0x95] => drop(self.take::<8>()?),
            b"." => {
                self.objects.root = self.pop()?;
                return Ok(false);
            }
            b"N" => self.push(Node::None),
            [0x88] => self.push(Node::Bool(true)),
            [0x89] => self.push(Node::Bool(false)),
            b"J" => {
                let value = i32::from_le_bytes(*self.take()?);
                self.push(Node::Int(value.into()));
            }
            b"K" => self.integer::<1>()?,
            b"M" => self.integer::<2>()?,
            [0x8a] => self.long()?,
            b"G" => {
                let value = f64::from_be_bytes(*self.take()?);
                self.push(Node::Float(value));
            }
            b"X" | b"T" => self.text::<4>()?,
            [0x8c] | b"U" => self.text::<1>()?,
            [0x8d] => self.text::<8>()?,
            b"B" => self.skip::<4>()?,
            b"C" => self.skip::<1>()?,
            [0x8e] => self.skip::<8>()?,
            b")" => self.push(Node::Tuple(Vec::new())),
            b"]" => self.push(Node::List(Vec::new())),
            b"}" => self.push(Node::Dict(Vec::new())),
            b"(" => self.marks.push(self.stack.len()),
            b"t" => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items));
            }
            [0x85] => self.tuple(1)?,
            [0x86] => self.tuple(2)?,
            [0x87] => self.tuple(3)?,
            b"l" => {
                let items = self.pop_mark()?;
                self.push(Node::List(items));
            }
            b"d" => {
                let items = self.pop_mark()?;
                self.push(Node::Dict(pairs(&items)?));
            }
            b"a" => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b"e" => {
                let items = self.pop_mark()?;
                self.extend_list(items)?;
            }
            b"s" => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(vec![(key, value)])?;
            }
            b"u" => {
                let items = self.pop_mark()?;
                self.extend_dict(pairs(&items)?)?;
            }
            b"0" => {
                self.pop()?;
            }
            b"1" => drop(self.pop_mark()?),
            b"2" => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b"q" => self.put::<1>()?,
            b"r" => self.put::<4>()?,
            [0x94] => {
                let top = self.top()?;
                self.memo.insert(self.memo.len() as u64, top);
            }
            b"h" => self.fetch::<1>()?,
            b"j" => self.fetch::<4>()?,
            b"c" => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_global(module, name)?;
            }
            [0x93] => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Text(module), Node::Text(name)) =
                    (self.objects.node(module), self.objects.node(name))
                else {
                    return Err("a global's name is not text".into());
                };
                let (module, name) = (module.clone(), name.clone());
                self.push_global(&module, &name)?;
            }
            b"Q" => {
                let id = self.pop()?;
                let storage = objects::storage(&self.objects, id)?;
                self.push(Node::Storage(storage));
            }
            b"R" => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                match objects::call(&self.objects, function, arguments)? {
                    Value::New(node) => self.push(node),
                    Value::Known(id) => self.stack.push(id),
                }
            }
            b"b" => {
                // Attributes of a dict (`_metadata` of a state dict) do not concern the tensors.
                self.pop()?;
                let top = self.top()?;
                if !matches!(self.objects.node(top), Node::Dict(_)) {
                    return Err("attributes are set on something that is not a dict".into());
                }
            }
            _ => return Err("an opcode that tensors do not need".into()),
        }
        Ok(true)
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], Stop> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let (head, _) = rest.split_first_chunk().ok_or("the pickle is cut short")?;
        self.at += N;
        Ok(head)
    }

    fn take_len(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let head = rest.get(..len).ok_or("the pickle is cut short")?;
        self.at += len;
        Ok(head)
    }

    fn len<const N: usize>(&mut self) -> Result<usize, Stop> {
        let mut wide = [0; 8];
        for (to, from) in wide.iter_mut().zip(self.take::<N>()?) {
            *to = *from;
        }
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| "a length is too large".into())
    }

    /// A line of text without its end.
    fn line(&mut self) -> Result<&'a str, Stop> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&byte| byte == b'\n');
        let line = self.take_len(len.ok_or("a line has no end")?)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| "a name is not UTF-8".into())
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.objects.nodes.len());
        self.objects.nodes.push(node);
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), Stop> {
        let refuse = || {
            let name: String = [module, ".", name].concat();
            // Enough to recognise it; the file could hold megabytes here.
            Stop::Global(name.chars().take(100).collect())
        };
        let global = Global::find(module, name).ok_or_else(refuse)?;
        self.push(Node::Global(global));
        Ok(())
    }

    /// The stack may not be emptied below the last mark.
    fn pop(&mut self) -> Result<Id, Stop> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the stack is empty".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn top(&self) -> Result<Id, Stop> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Stop> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        if mark > self.stack.len() {
            return Err("there is no mark".into());
        }
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, len: usize) -> Result<(), Stop> {
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items));
        Ok(())
    }

    fn integer<const N: usize>(&mut self) -> Result<(), Stop> {
        let value = self.len::<N>()?;
        self.push(Node::Int(i64::try_from(value).unwrap_or(i64::MAX)));
        Ok(())
    }

    /// An integer of any length, least significant byte first, signed.
    fn long(&mut self) -> Result<(), Stop> {
        let len = self.len::<1>()?;
        let bytes = self.take_len(len)?;
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut wide = if negative { [0xff; 8] } else { [0; 8] };
        if len > wide.len() {
            self.push(Node::Opaque);
            return Ok(());
        }
        for (to, from) in wide.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.push(Node::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn text<const N: usize>(&mut self) -> Result<(), Stop> {
        let len = self.len::<N>()?;
        let text = std::str::from_utf8(self.take_len(len)?).map_err(|_| "text is not UTF-8")?;
        self.push(Node::Text(text.to_owned()));
        Ok(())
    }

    fn skip<const N: usize>(&mut self) -> Result<(), Stop> {
        let len = self.len::<N>()?;
        self.take_len(len)?;
        self.push(Node::Opaque);
        Ok(())
    }

    fn put<const N: usize>(&mut self) -> Result<(), Stop> {
        let (index, top) = (self.len::<N>()?, self.top()?);
        self.memo.insert(index as u64, top);
        Ok(())
    }

    fn fetch<const N: usize>(&mut self) -> Result<(), Stop> {
        let index = self.len::<N>()? as u64;
        let id = self.memo.get(&index).ok_or("the memo has no such entry")?;
        self.stack.push(*id);
        Ok(())
    }

    fn extend_list(&mut self, items: Vec<Id>) -> Result<(), Stop> {
        let top = self.top()?;
        match self.objects.nodes.get_mut(top) {
            Some(Node::List(list)) => list.extend(items),
            _ => return Err("items are added to something that is not a list".into()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: Vec<(Id, Id)>) -> Result<(), Stop> {
        let top = self.top()?;
        match self.objects.nodes.get_mut(top) {
            Some(Node::Dict(dict)) => dict.extend(items),
            _ => return Err("items are set in something that is not a dict".into()),
        }
        Ok(())
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, Stop> {
    let (pairs, rest) = items.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    } else {
        Err("a key has no value".into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Opcodes with their arguments, in any order.
    fn opcode() -> impl Strategy<Value = Vec<u8>> {
        let fixed: Vec<&[u8]> = vec![
            b"N",
            b"\x88",
            b"K\x03",
            b"M\x01\x02",
            b"J\xff\xff\xff\xff",
            b"X\x01\0\0\0a",
            b")",
            b"]",
            b"}",
            b"(",
            b"t",
            b"\x85",
            b"\x86",
            b"\x87",
            b"l",
            b"d",
            b"a",
            b"e",
            b"s",
            b"u",
            b"0",
            b"1",
            b"2",
            b"q\0",
            b"h\0",
            b"\x94",
            b"R",
            b"b",
            b"Q",
            b".",
            b"ccollections\nOrderedDict\n",
            b"ctorch\nFloatStorage\n",
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"ctorch\nSize\n",
            b"X\x07\0\0\0storage",
            b"\x8a\x09",
        ];
        prop_oneof![
            9 => prop::sample::select(fixed).prop_map(<[u8]>::to_vec),
            1 => prop::collection::vec(any::<u8>(), 1..4),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]
        #[test]
        fn any_pickle_is_survived(opcodes in prop::collection::vec(opcode(), 0..60)) {
            let bytes = opcodes.concat();
            if let Ok(objects) = unpickle(&bytes) {
                prop_assert!(objects.root < objects.nodes.len());
                let _ = super::super::state_dict::flatten(&objects);
            }
        }
    }

    #[test]
    fn a_value_is_as_small_as_the_bound_says() {
        assert_eq!(size_of::<Node>(), 32);
    }
}
