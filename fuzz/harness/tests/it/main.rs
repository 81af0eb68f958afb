//! One binary: the guard itself, the kept corpus, and that targets, programs and corpora are the same list.

mod corpus;
mod guard;
