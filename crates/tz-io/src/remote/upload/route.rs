//! How the bytes of an upload get to each kind of store. Owns [`Route`].

use bytes::Bytes;
use object_store::multipart::PartId;
use object_store::{MultipartId, PutMode, PutOptions, PutPayload};

use crate::error::IoError;
use crate::remote::clouds::commit_new;
use crate::remote::object::{Signed, failed};
use crate::remote::options::RemoteOptions;
use crate::remote::presigned::{COMPLETING, S3Object, exists};

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

impl Route {
    /// Sends one part, counted from 0, or the whole object. Gives the part's entity tag.
    pub(super) async fn put(&self, part: u64, bytes: Bytes) -> Result<String, IoError> {
        match self {
            Self::One(Signed { store, path, .. }, mode) => {
                let put = store.put_opts(path, bytes.into(), PutOptions::from(mode.clone())).await;
                let create_only = *mode == PutMode::Create;
                match put {
                    Ok(put) => Ok(put.e_tag.unwrap_or_default()),
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
            Self::S3(object, id) => object.complete(id, &tags, len, create_only).await,
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
