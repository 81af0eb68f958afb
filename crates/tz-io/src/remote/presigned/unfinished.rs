//! Uploads to S3 that were never completed: listed, named and removed. Owns [`unfinished_uploads`].

use http::Method;
use object_store::path::Path;

use super::{Ask, LISTING, MAX_LISTING, S3Object};
use crate::error::IoError;
use crate::remote::object::Signed;
use crate::remote::options::RemoteOptions;
use crate::remote::runtime::run;
use crate::remote::target::{RemoteKind, RemoteLocation, StoreKind};
use crate::remote::words::{element, unescaped, word_of};

impl S3Object {
    /// Names uploads of the object that were never finished. What a killed writer leaves is invisible but costs money;
    /// only a person knows whether another writer is at work.
    pub(crate) async fn warn_of_unfinished(&self, key: &str) {
        // Listing may be forbidden or unknown to the store: no reason not to write, nor to wait long.
        for upload in self.uploads(key, 0).await.unwrap_or_default() {
            let location = self.signed.name();
            tracing::warn!(
                location,
                upload,
                "an earlier upload of this object was never finished; if no other writer is at work, \
                 --abort-unfinished removes it"
            );
        }
    }

    /// `ListMultipartUploads` of the uploads of `key`. One page holds 1,000, and keys sort before the keys that they
    /// begin.
    async fn uploads(&self, key: &str, retries: u32) -> Result<Vec<String>, IoError> {
        let query = [("uploads", ""), ("prefix", key)];
        let root = Path::default();
        let ask = self.ask(Method::GET, LISTING);
        let most = MAX_LISTING;
        let ask = Ask { path: &root, query: &query, most, retries, patience: 1, ..ask };
        let answer = self.send(ask).await?;
        match answer.says("ListMultipartUploadsResult") {
            true => Ok(upload_ids(&answer.text, key)),
            false => Err(self.refused(&answer, LISTING)),
        }
    }
}

/// Uploads of this object that were never completed, which is what a killed writer leaves, by upload id. `abort`
/// removes them: only for who knows that no other writer is at work. Stores other than S3 clean up by themselves.
///
/// # Errors
/// [`IoError::Io`] where the store does not list or remove uploads.
pub fn unfinished_uploads(
    location: &RemoteLocation,
    options: &RemoteOptions,
    abort: bool,
) -> Result<Vec<String>, IoError> {
    let RemoteKind::Object { store: StoreKind::S3, key, .. } = &location.kind else {
        return Ok(Vec::new());
    };
    let removed = async {
        let object = S3Object::new(Signed::new(location, options).await?, options)?;
        let ids = object.uploads(key, options.retries).await?;
        if abort {
            for id in &ids {
                object.abort(id).await?;
            }
        }
        Ok(ids)
    };
    run(&location.to_string(), LISTING, options.cancel.unless(removed))
}

/// Upload ids of exactly `key` in a `ListMultipartUploadsResult`.
fn upload_ids(listing: &str, key: &str) -> Vec<String> {
    let text = |upload, name| element(upload, name).map(unescaped);
    let uploads = listing.split("<Upload>").skip(1);
    uploads
        .filter(|upload| text(upload, "Key").as_deref() == Some(key))
        .filter_map(|upload| word_of(upload, "UploadId"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_name_uploads_of_the_very_key() {
        let listing = "<ListMultipartUploadsResult><Upload><Key>a/b</Key><UploadId>1</UploadId></Upload>\
            <Upload><Key>a/b.bak</Key><UploadId>2</UploadId></Upload><Upload><UploadId>3&amp;</UploadId>\
            <Key>a/b</Key></Upload></ListMultipartUploadsResult>";
        assert_eq!(upload_ids(listing, "a/b"), ["1", "3&"]);
        let odd = "<Upload><Key>a/b</Key><UploadId>\u{1b}[2J</UploadId></Upload>";
        assert_eq!(upload_ids(odd, "a/b"), [""; 0], "ids are printed");
    }
}
