//! The order of the places, and what each of them says.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::TcpListener;

use tempfile::TempDir;

use super::super::runtime::block_on;
use super::*;

/// An environment of variables and a home.
struct Surroundings {
    variables: HashMap<&'static str, String>,
    home: TempDir,
}

impl Surroundings {
    /// Nothing but a home, and no metadata service.
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let shown = home.path().display().to_string();
        let variables =
            HashMap::from([("HOME", shown), ("AWS_EC2_METADATA_DISABLED", "true".to_owned())]);
        Self { variables, home }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.insert(name, value.into());
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    fn resolve(&self, options: &S3Options) -> Result<Resolved, IoError> {
        let variable = |name: &str| self.variables.get(name).map(OsString::from);
        block_on(resolve_in(&Environment(&variable), options, "s3://bucket/key"))
    }

    #[track_caller]
    fn check(&self, options: &S3Options, source: &str, id: Option<&str>) -> Resolved {
        let resolved = self.resolve(options).unwrap();
        let found = resolved.keys.as_ref().map(|keys| keys.id.as_str());
        assert_eq!((resolved.source, found), (source, id));
        resolved
    }
}

fn explicit() -> S3Options {
    S3Options {
        access_key_id: Some("explicit".to_owned()),
        secret_access_key: Some("secret".to_owned()),
        ..S3Options::default()
    }
}

fn s3cmd(id: &str) -> String {
    format!("[default]\naccess_key = {id}\nsecret_key = secret\nhost_base = {id}.example\n")
}

/// Everything at once; the tests take the first places away one by one.
fn everywhere() -> Surroundings {
    Surroundings::new()
        .with("AWS_ACCESS_KEY_ID", "aws")
        .with("AWS_SECRET_ACCESS_KEY", "secret")
        .with("AWS_SESSION_TOKEN", "aws token")
        .with("AWS_ENDPOINT_URL", "http://aws.example")
        .with("AWS_REGION", "aws-region")
        .with("S3_ACCESS_KEY_ID", "s3")
        .with("S3_SECRET_ACCESS_KEY", "secret")
        .with("S3_ENDPOINT_URL", "http://s3.example")
        .file(
            ".aws/credentials",
            "[default]\naws_access_key_id = profile\naws_secret_access_key = secret\n\
             aws_session_token = profile token\n",
        )
        .file(".aws/config", "[default]\nregion = profile-region\n")
        .file(".s3cfg", &s3cmd("home"))
        .file("named.cfg", &s3cmd("named"))
        .with("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
        .with("AWS_ROLE_ARN", "arn")
}

#[test]
fn keys_are_looked_up_in_order() {
    let all = everywhere();
    let config_path = Some(all.path("named.cfg"));
    let both = S3Options { config_path: config_path.clone(), ..explicit() };
    let named = S3Options { config_path, ..S3Options::default() };
    all.check(&both, "given explicitly", Some("explicit"));
    all.check(&named, "the s3cmd file given", Some("named"));
    let aws = all.check(&S3Options::default(), "AWS_* environment variables", Some("aws"));
    assert_eq!(aws.keys.unwrap().token.as_deref(), Some("aws token"));
    let all = all.without("AWS_ACCESS_KEY_ID");
    let s3 = all.check(&S3Options::default(), "S3_* environment variables", Some("s3"));
    assert_eq!(s3.keys.unwrap().token, None, "a token belongs to its own keys");
    let all = all.with("S3_SECRET_ACCESS_KEY", "");
    let profile = all.check(&S3Options::default(), "the AWS profile", Some("profile"));
    assert_eq!(profile.keys.unwrap().token.as_deref(), Some("profile token"));
    let all = all.file(".aws/credentials", "");
    all.check(&S3Options::default(), "~/.s3cfg", Some("home"));
    let all = all.file(".s3cfg", "");
    let web = all.check(&S3Options::default(), "web identity", None);
    assert!(web.ambient.is_some());
    let all = all.without("AWS_ROLE_ARN");
    let nobody = all.check(&S3Options::default(), "anonymous", None);
    assert!(nobody.ambient.is_none());
}

#[test]
fn endpoint_and_region_are_looked_up_in_the_same_order_each_by_itself() {
    let all = everywhere();
    let mut options = explicit();
    let aws = all.resolve(&options).unwrap();
    assert_eq!(aws.endpoint.unwrap().as_str(), "http://aws.example/");
    assert_eq!(aws.region, "aws-region");
    options.endpoint = Some("https://mine.example".to_owned());
    options.region = Some("my-region".to_owned());
    let mine = all.resolve(&options).unwrap();
    assert_eq!(mine.endpoint.unwrap().as_str(), "https://mine.example/");
    assert_eq!(mine.region, "my-region");
    let all = all.without("AWS_ENDPOINT_URL").without("AWS_REGION");
    let s3 = all.resolve(&explicit()).unwrap();
    assert_eq!(s3.endpoint.unwrap().as_str(), "http://s3.example/");
    assert_eq!(s3.region, "profile-region");
    let all = all.without("S3_ENDPOINT_URL").file(".aws/config", "");
    let home = all.resolve(&explicit()).unwrap();
    assert_eq!(home.endpoint.unwrap().as_str(), "https://home.example/");
    assert_eq!(home.region, "us-east-1");
    let all = all.with("AWS_ENDPOINT_URL", "http://a").with("AWS_ENDPOINT_URL_S3", "http://b");
    assert_eq!(all.resolve(&explicit()).unwrap().endpoint.unwrap().as_str(), "http://b/");
}

#[test]
fn anonymous_takes_no_keys_and_asks_nobody() {
    let options = S3Options { anonymous: true, ..S3Options::default() };
    let all = everywhere().without("AWS_EC2_METADATA_DISABLED");
    let resolved = all.check(&options, "anonymous", None);
    assert!(resolved.ambient.is_none());
    assert_eq!(resolved.endpoint.unwrap().as_str(), "http://aws.example/");
}

#[test]
fn empty_credentials_count_as_unset_in_every_place() {
    let empty = || Some(String::new());
    let nothing = S3Options {
        access_key_id: empty(),
        secret_access_key: empty(),
        session_token: empty(),
        endpoint: empty(),
        region: empty(),
        ..S3Options::default()
    };
    let all = everywhere().with("AWS_SESSION_TOKEN", "");
    let aws = all.check(&nothing, "AWS_* environment variables", Some("aws"));
    assert_eq!(aws.keys.unwrap().token, None);
    assert_eq!(aws.endpoint.unwrap().as_str(), "http://aws.example/");
    assert_eq!(aws.region, "aws-region");
    let all = all.with("AWS_SECRET_ACCESS_KEY", "").with("AWS_ENDPOINT_URL", "");
    let s3 = all.check(&nothing, "S3_* environment variables", Some("s3"));
    assert_eq!(s3.endpoint.unwrap().as_str(), "http://s3.example/");
    let all = all.with("S3_ACCESS_KEY_ID", "");
    all.check(&nothing, "the AWS profile", Some("profile"));
    let profile = "[default]\naws_access_key_id =\naws_secret_access_key = secret\n";
    let all = all.file(".aws/credentials", profile);
    all.check(&nothing, "~/.s3cfg", Some("home"));
    // The other file of the profile is asked for what is empty in the first.
    let all = all.file(".aws/config", "[default]\naws_access_key_id = config\nregion =\n");
    let config = all.check(&nothing, "the AWS profile", Some("config"));
    assert_eq!(config.region, "aws-region");
    let all =
        all.file(".aws/config", "").file(".s3cfg", "[default]\naccess_key =\nsecret_key = s\n");
    all.check(&nothing, "web identity", None);
    all.with("AWS_ROLE_ARN", "").check(&nothing, "anonymous", None);
}

#[test]
fn half_a_pair_is_refused() {
    for (id, secret) in [
        (Some("id"), None),
        (None, Some("secret")),
        (Some("id"), Some("")),
        (Some(""), Some("secret")),
    ] {
        let options = S3Options {
            access_key_id: id.map(str::to_owned),
            secret_access_key: secret.map(str::to_owned),
            ..S3Options::default()
        };
        let refused = Surroundings::new().resolve(&options);
        assert!(matches!(refused, Err(IoError::Unsupported { .. })), "{refused:?}");
    }
}

#[test]
fn another_profile_may_be_chosen_and_its_files_may_stand_elsewhere() {
    let files = Surroundings::new()
        .file("c", "[work]\naws_access_key_id = work\naws_secret_access_key = sec/ret+=\n")
        .file("d", "[profile work]\nregion = work-region\nendpoint_url = http://work.example\n");
    let (credentials, config) = (files.path("c"), files.path("d"));
    let files = files
        .with("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap())
        .with("AWS_CONFIG_FILE", config.to_str().unwrap());
    files.check(&S3Options::default(), "anonymous", None);
    let files = files.with("AWS_PROFILE", "work");
    let work = files.check(&S3Options::default(), "the AWS profile", Some("work"));
    assert_eq!(work.keys.unwrap().secret, "sec/ret+=");
    assert_eq!(work.endpoint.unwrap().as_str(), "http://work.example/");
    assert_eq!(work.region, "work-region");
}

/// What a file in s3cmd's format says: id, secret, endpoint, region.
#[track_caller]
fn check_s3cmd(text: &str, expect: Option<(&str, &str)>, endpoint: Option<&str>, region: &str) {
    let files = Surroundings::new().file(".s3cfg", text);
    let found = files.resolve(&S3Options::default()).unwrap();
    let keys = found.keys.as_ref().map(|keys| (keys.id.as_str(), keys.secret.as_str()));
    assert_eq!(keys, expect, "{text}");
    assert_eq!(found.endpoint.as_ref().map(Url::as_str), endpoint, "{text}");
    assert_eq!(found.region, region, "{text}");
    assert!(!format!("{found:?}").contains("se\\cret"), "{found:?}");
}

#[test]
fn s3cmd_files() {
    let keys = "[default]\naccess_key = id\nsecret_key = se\\cret/%#+=\n";
    let expect = Some(("id", "se\\cret/%#+="));
    check_s3cmd(keys, expect, None, "us-east-1");
    let with = |line: &str| format!("{keys}{line}\n");
    check_s3cmd(&with("host_base = a.example"), expect, Some("https://a.example/"), "us-east-1");
    let plain = with("host_base = a.example:80\nuse_https = False");
    check_s3cmd(&plain, expect, Some("http://a.example/"), "us-east-1");
    let secure = with("host_base = a.example\nuse_https = True");
    check_s3cmd(&secure, expect, Some("https://a.example/"), "us-east-1");
    let whole = with("host_base = http://a.example");
    check_s3cmd(&whole, expect, Some("http://a.example/"), "us-east-1");
    check_s3cmd(&with("bucket_location = US"), expect, None, "us-east-1");
    check_s3cmd(&with("bucket_location = EU"), expect, None, "eu-west-1");
    check_s3cmd(&with("bucket_location = eu-north-1"), expect, None, "eu-north-1");
    check_s3cmd("[default]\naccess_key = id\nsecret_key =\n", None, None, "us-east-1");
    check_s3cmd("[other]\naccess_key = id\nsecret_key = se\\cret\n", None, None, "us-east-1");
    check_s3cmd("not such a file", None, None, "us-east-1");
}

#[test]
fn an_s3cmd_file_that_is_named_must_be_one() {
    let files = Surroundings::new().file("cfg", "not such a file");
    let named = |name| S3Options { config_path: Some(files.path(name)), ..S3Options::default() };
    let refused = files.resolve(&named("cfg"));
    assert!(matches!(refused, Err(IoError::Unsupported { .. })), "{refused:?}");
    let refused = files.resolve(&named("nothing"));
    assert!(matches!(refused, Err(IoError::Io { .. })), "{refused:?}");
}

#[test]
fn endpoints() {
    assert_eq!(parse_endpoint("host:9000", "x").unwrap().as_str(), "https://host:9000/");
    assert_eq!(parse_endpoint("http://host", "x").unwrap().as_str(), "http://host/");
    assert!(parse_endpoint("://", "x").is_err());
}

#[test]
fn keys_at_hand_never_wait_for_a_metadata_service() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let all = everywhere()
        .without("AWS_EC2_METADATA_DISABLED")
        .without("AWS_WEB_IDENTITY_TOKEN_FILE")
        .with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint);
    let asked = || match listener.accept() {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    };
    let anonymous = S3Options { anonymous: true, ..S3Options::default() };
    for options in [explicit(), S3Options::default(), anonymous] {
        all.resolve(&options).unwrap();
        assert!(!asked(), "{options:?}");
    }
    let nothing = Surroundings::new()
        .without("AWS_EC2_METADATA_DISABLED")
        .with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint);
    let found = nothing.check(&S3Options::default(), "the instance's metadata service", None);
    assert!(asked(), "the service is asked where nothing else helps");
    let told = (AmazonS3ConfigKey::MetadataEndpoint, endpoint);
    assert!(found.ambient.unwrap().contains(&told));
}

#[test]
fn no_secret_is_printed() {
    let canary = Some("canary".to_owned());
    let options =
        S3Options { secret_access_key: canary.clone(), session_token: canary, ..explicit() };
    let resolved = Surroundings::new().resolve(&options).unwrap();
    let shown = format!("{options:?} {resolved:?} {:?}", resolved.keys);
    assert!(!shown.contains("canary"), "{shown}");
}
