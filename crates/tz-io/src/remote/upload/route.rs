//! How the bytes of an upload get to each kind of store. Owns [`Route`].

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use object_store::multipart::PartId;
use object_store::{MultipartId, PutMode, PutOptions, PutPayload};

use crate::error::IoError;
use crate::remote::clouds::commit_new;
use crate::remote::object::{Signed, failed};
use crate::remote::options::RemoteOptions;
use crate::remote::presigned::{COMPLETING, Condition, S3Object, STARTING, exists};
use crate::remote::target::{RemoteKind, RemoteLocation, StoreKind};

/// What a part's failure is said to have befallen.
pub(super) const UPLOADING: &str = "upload to";

/// How the bytes get there.
#[derive(Debug)]
pub(super) enum Route {
    /// The object is one part and is put in one request.
    One(Signed, PutMode),
    /// Parts of an upload to S3.
    S3(Box<S3Object>, String),
    /// Parts of an upload to another store.
    Other(Signed, MultipartId),
}

/// What an upload is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) is_one_part: bool,
    pub(super) create_only: bool,
}

impl Route {
    /// Starts an upload. `is_starting` is set before the store is asked for one: if that request is given up, there
    /// may be an upload of which only the store knows.
    pub(super) async fn start(
        location: &RemoteLocation,
        options: &RemoteOptions,
        wish: Wish,
        is_starting: &AtomicBool,
    ) -> Result<Self, IoError> {
        let (name, cancel) = (location.to_string(), &options.cancel);
        let Wish { is_one_part, create_only } = wish;
        let RemoteKind::Object { store, key, .. } = &location.kind else {
            let why = "HTTP servers can be read from, not written to";
            return Err(IoError::Unsupported { location: name, why });
        };
        let signed = cancel.unless(Signed::new(location, options)).await?;
        // Cheaper to learn now than after the upload. The condition decides, where the store knows it: Garage 2.5
        // ignores it on a single request.
        if create_only {
            let len = async { Ok::<_, IoError>(signed.len().await) };
            if cancel.unless(len).await?.is_some() {
                return Err(exists(&name));
            }
        }
        if is_one_part {
            let mode = if create_only { PutMode::Create } else { PutMode::Overwrite };
            return Ok(Self::One(signed, mode));
        }
        if *store != StoreKind::S3 {
            if create_only && *store == StoreKind::Gcs {
                let why = "Google Cloud Storage creates no object conditionally that is larger \
                    than one part";
                return Err(IoError::Unsupported { location: name, why });
            }
            cancel.check()?;
            is_starting.store(true, Ordering::Relaxed);
            let id = signed.store.create_multipart(&signed.path).await;
            let id = id.map_err(failed(&name, STARTING))?;
            return Ok(Self::Other(signed, id));
        }
        let object = S3Object::new(signed, options)?;
        object.warn_of_unfinished(key).await;
        cancel.check()?;
        is_starting.store(true, Ordering::Relaxed);
        let id = object.start().await?;
        Ok(Self::S3(Box::new(object), id))
    }

    /// Sends one part, counted from 0, or the whole object. Gives the part's entity tag.
    pub(super) async fn put(&self, part: u64, bytes: Bytes) -> Result<String, IoError> {
        match self {
            Self::One(Signed { store, path, .. }, mode) => {
                let put = store.put_opts(path, bytes.into(), PutOptions::from(mode.clone())).await;
                let create_only = *mode == PutMode::Create;
                match put {
                    Ok(put) => {
                        let tag = put.e_tag.filter(|tag| !tag.is_empty());
                        let none = || io::Error::other("an answer without an etag");
                        tag.ok_or_else(|| IoError::io(self.name(), UPLOADING)(none()))
                    }
                    Err(
                        object_store::Error::AlreadyExists { .. }
                        | object_store::Error::Precondition { .. },
                    ) if create_only => Err(exists(self.name())),
                    Err(error) => Err(failed(self.name(), UPLOADING)(error)),
                }
            }
            Self::S3(object, id) => object.put_part(id, part + 1, bytes).await,
            Self::Other(Signed { store, path, .. }, id) => {
                let part = usize::try_from(part).unwrap_or(usize::MAX);
                let put = store.put_part(path, id, part, PutPayload::from(bytes)).await;
                put.map(|put| put.content_id).map_err(failed(self.name(), UPLOADING))
            }
        }
    }

    /// Makes the object visible.
    pub(super) async fn complete(
        &self,
        tags: Vec<String>,
        len: u64,
        create_only: bool,
        options: &RemoteOptions,
    ) -> Result<(), IoError> {
        match self {
            Self::One(..) => Ok(()),
            Self::S3(object, id) => {
                let condition = if create_only { Condition::New } else { Condition::None };
                object.complete(id, &tags, len, condition).await
            }
            Self::Other(signed, _) if create_only => commit_new(signed, options, &tags).await,
            Self::Other(Signed { store, path, .. }, id) => {
                let parts = tags.into_iter().map(|content_id| PartId { content_id }).collect();
                let done = store.complete_multipart(path, id, parts).await;
                done.map(drop).map_err(failed(self.name(), COMPLETING))
            }
        }
    }

    pub(super) async fn abort(&self) -> Result<(), IoError> {
        match self {
            Self::One(..) => Ok(()),
            Self::S3(object, id) => object.abort(id).await,
            Self::Other(Signed { store, path, .. }, id) => {
                let done = store.abort_multipart(path, id).await;
                done.map_err(failed(self.name(), "remove an unfinished upload of"))
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::One(signed, _) | Self::Other(signed, _) => signed.name(),
            Self::S3(object, _) => object.signed.name(),
        }
    }

    pub(super) fn upload(&self) -> Option<&str> {
        match self {
            Self::One(..) => None,
            Self::S3(_, id) | Self::Other(_, id) => Some(id),
        }
    }
}
