//! Google Cloud Storage and Azure, set up from their usual environment variables; and what Azure can do that
//! `object_store` does not offer: an upload that is completed only where no object stands.

use std::env;
use std::ffi::OsString;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{Method, StatusCode, header};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;

use super::bounded::{MAX_ANSWER, Unread, text};
use super::connector::Connector;
use super::credentials::{ENVIRONMENT, told};
use super::object::{Access, Signed, client_options, failed, retry};
use super::options::RemoteOptions;
use super::presigned::{COMPLETING, exists};
use super::target::StoreKind;
use super::transport::{cause, http_client};
use super::words::answered;
use crate::error::IoError;

/// Stands in for a key where a signature is made only to learn an object's address. Base64, as Azure's keys are.
const PLACEHOLDER: &str = "bm9uZQ==";

/// What else Azure takes instead of a shared access signature, any of it before that.
const BEFORE_SAS: [AzureConfigKey; 4] = [
    AzureConfigKey::AccessKey,
    AzureConfigKey::Token,
    AzureConfigKey::ClientSecret,
    AzureConfigKey::FederatedTokenFile,
];

/// Settings from environment variables that begin with `prefix`. One that is empty counts as unset, so the builders'
/// own `from_env`, which takes it as a value, does not do.
fn settings<Key: FromStr>(
    prefix: &str,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(Key, String)> {
    let setting = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(prefix))?;
        let key = name.to_ascii_lowercase().parse().ok()?;
        Some((key, told(ENVIRONMENT, &name, value.into_string().ok())?))
    };
    variables.filter_map(setting).collect()
}

/// One more variable, whose name has not the prefix of the others.
fn variable(name: &str) -> Option<String> {
    told(ENVIRONMENT, name, env::var(name).ok())
}

pub(crate) fn google(bucket: &str, options: &RemoteOptions, name: &str) -> Result<Access, IoError> {
    let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(bucket);
    if let Some(path) = variable("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    for (key, value) in settings("GOOGLE_", env::vars_os()) {
        builder = builder.with_config(key, value);
    }
    let builder = builder.with_client_options(client_options()).with_retry(retry(options));
    let builder = builder.with_http_connector(Connector::new(options, name, StoreKind::Gcs)?);
    let store = Arc::new(builder.build().map_err(failed(name, "set up access to"))?);
    Ok(Access { signer: Arc::clone(&store) as _, store, instead: None })
}

pub(crate) fn azure(
    container: &str,
    options: &RemoteOptions,
    name: &str,
) -> Result<Access, IoError> {
    let mut builder = MicrosoftAzureBuilder::new().with_container_name(container);
    for (key, value) in settings("AZURE_", env::vars_os()) {
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = variable("IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    let builder = builder.with_client_options(client_options()).with_retry(retry(options));
    let builder = builder.with_http_connector(Connector::new(options, name, StoreKind::Azure)?);
    let build = |builder: MicrosoftAzureBuilder| {
        builder.build().map(Arc::new).map_err(failed(name, "set up access to"))
    };
    let instead = instead(&builder);
    let store = build(builder.clone())?;
    if instead.is_none() {
        return Ok(Access { signer: Arc::clone(&store) as _, store, instead });
    }
    // The store signs with a key or not at all.
    let builder = builder.with_skip_signature(false).with_access_key(PLACEHOLDER);
    let signer = build(builder.with_config(AzureConfigKey::CredentialType, "access_key"))?;
    Ok(Access { store, signer, instead })
}

/// The query that authorises requests where there is no key to sign them with: the shared access signature that was
/// handed to us, or nothing for a public container.
fn instead(builder: &MicrosoftAzureBuilder) -> Option<String> {
    let is_set = |key: &AzureConfigKey| builder.get_config_value(key).is_some();
    let skips = builder.get_config_value(&AzureConfigKey::SkipSignature);
    if skips.as_deref() == Some("true") {
        return Some(String::new());
    }
    let sas = builder.get_config_value(&AzureConfigKey::SasKey);
    let sas = sas.filter(|_| !BEFORE_SAS.iter().any(is_set))?;
    Some(sas.trim().trim_start_matches('?').to_owned())
}

/// Makes a blob of these blocks unless there is one. Sent once: whether a request took effect that was not answered
/// cannot be told, and the next one would be refused either way.
pub(crate) async fn commit_new(
    signed: &Signed,
    options: &RemoteOptions,
    blocks: &[String],
) -> Result<(), IoError> {
    let name = signed.name();
    let network = |why: String| IoError::io(name, COMPLETING)(io::Error::other(why));
    let mut body = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
    for block in blocks {
        body.push_str(&format!("<Latest>{}</Latest>", BASE64_STANDARD.encode(block)));
    }
    body.push_str("</BlockList>");
    let mut url = signed
        .url(Method::PUT)
        .await
        .map_err(|failure| IoError::io(name, COMPLETING)(failure.into_io()))?;
    url.query_pairs_mut().append_pair("comp", "blocklist");
    let request =
        http_client(options, name)?.put(url).header(header::IF_NONE_MATCH, "*").body(body);
    // A store that has everything may take its time to put it together.
    let patience = options.stall_timeout.saturating_mul(4);
    let sent = tokio::time::timeout(patience, async {
        let response = request.send().await.map_err(Unread::Broken)?;
        Ok((response.status(), text(response, MAX_ANSWER).await?))
    });
    let sent = sent.await.map_err(|_| network(format!("no answer for {patience:?}")))?;
    let (status, text) = sent.map_err(|unread| match unread {
        Unread::TooLong => network(format!("an answer of more than {MAX_ANSWER} bytes")),
        Unread::Broken(error) => network(cause(error)),
    })?;
    match status {
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Err(exists(name)),
        status if status == StoreKind::Azure.put() => Ok(()),
        status => Err(network(answered(&status.to_string(), &text))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::object::SIGNED_FOR;
    use super::super::runtime::block_on;
    use super::*;
    use object_store::gcp::GoogleConfigKey;
    use object_store::path::Path;

    fn builder(settings: &[(AzureConfigKey, &str)]) -> MicrosoftAzureBuilder {
        let builder = MicrosoftAzureBuilder::new().with_account("account").with_container_name("c");
        settings.iter().fold(builder, |builder, (key, value)| builder.with_config(*key, *value))
    }

    #[test]
    fn a_shared_access_signature_counts_where_there_is_no_key() {
        let sas = (AzureConfigKey::SasKey, "?sv=1&sig=canary");
        let key = (AzureConfigKey::AccessKey, PLACEHOLDER);
        assert_eq!(instead(&builder(&[sas])).as_deref(), Some("sv=1&sig=canary"));
        assert_eq!(instead(&builder(&[sas, key])), None);
        assert_eq!(instead(&builder(&[key])), None);
        let public = (AzureConfigKey::SkipSignature, "true");
        assert_eq!(instead(&builder(&[public, sas])).as_deref(), Some(""));
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let variables = |values: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| (name.into(), value.into());
            values.iter().map(pair).collect::<Vec<(OsString, OsString)>>().into_iter()
        };
        let found = settings::<AzureConfigKey>(
            "AZURE_",
            variables(&[
                ("AZURE_STORAGE_ACCOUNT_KEY", ""),
                ("AZURE_STORAGE_SAS_TOKEN", "sig=x"),
                ("AZURE_STORAGE_TOKEN", ""),
                ("AZURE_OF_ANOTHER_PROGRAM", "x"),
                ("HOME", "/root"),
            ]),
        );
        assert_eq!(found, [(AzureConfigKey::SasKey, "sig=x".to_owned())]);
        let found = settings::<GoogleConfigKey>(
            "GOOGLE_",
            variables(&[("GOOGLE_SERVICE_ACCOUNT_KEY", ""), ("GOOGLE_BASE_URL", "http://x")]),
        );
        assert_eq!(found, [(GoogleConfigKey::BaseUrl, "http://x".to_owned())]);
    }

    #[test]
    fn an_address_needs_no_key() {
        let settings =
            [(AzureConfigKey::SasKey, "sig=x"), (AzureConfigKey::CredentialType, "access_key")];
        let store = builder(&settings).with_access_key(PLACEHOLDER).build().unwrap();
        let path = Path::parse("a b.tensors").unwrap();
        let mut url = block_on(object_store::signer::Signer::signed_url(
            &store,
            Method::GET,
            &path,
            SIGNED_FOR,
        ))
        .unwrap();
        url.set_query(None);
        assert_eq!(url.as_str(), "https://account.blob.core.windows.net/c/a%20b.tensors");
    }
}
