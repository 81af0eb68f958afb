//! The variables that huggingface_hub reads, row by row.

use std::fs;
use std::path::Path;

use tempfile::tempdir;
use tz_model::hub::HubOptions;

#[track_caller]
fn options(variables: &[(&str, &str)]) -> HubOptions {
    let variable = |name: &str| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    HubOptions::from_variables(variable).expect("readable")
}

#[track_caller]
fn check_cache(variables: &[(&str, &str)], expect: Option<&str>) {
    assert_eq!(options(variables).cache.as_deref(), expect.map(Path::new), "{variables:?}");
}

#[test]
fn the_cache_is_where_the_nearest_variable_says() {
    check_cache(&[], None);
    check_cache(&[("HOME", "/h")], Some("/h/.cache/huggingface/hub"));
    check_cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], Some("/x/huggingface/hub"));
    check_cache(&[("HOME", "/h"), ("HF_HOME", "/f")], Some("/f/hub"));
    check_cache(&[("HOME", "/h"), ("HF_HOME", "~/f")], Some("/h/f/hub"));
    check_cache(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/old")], Some("/old"));
    check_cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/c")], Some("/c"));
    check_cache(&[("HF_HOME", ""), ("HOME", "/h")], Some("/h/.cache/huggingface/hub"));
}

#[test]
fn offline_takes_the_usual_words() {
    for (value, expect) in [("1", true), ("true", true), ("ON", true), ("yes", true), ("0", false)]
    {
        assert_eq!(options(&[("HF_HUB_OFFLINE", value)]).offline, expect, "{value}");
        assert_eq!(options(&[("TRANSFORMERS_OFFLINE", value)]).offline, expect, "{value}");
    }
}

#[test]
fn the_token_comes_from_variable_or_file_and_never_shows() {
    let dir = tempdir().unwrap();
    let home = dir.path().to_str().unwrap();
    let has = |variables: &[(&str, &str)]| {
        let options = options(variables);
        assert!(!format!("{options:?}").contains("hf_secret"));
        options.token.is_some()
    };
    assert!(has(&[("HF_TOKEN", "hf_secret")]));
    assert!(!has(&[("HF_TOKEN", " ")]));
    assert!(!has(&[("HF_HOME", home)]));
    fs::write(dir.path().join("token"), "hf_secret\n").unwrap();
    assert!(has(&[("HF_HOME", home)]));
    assert!(!has(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]));
    let path = dir.path().join("token");
    assert!(has(&[("HF_TOKEN_PATH", path.to_str().unwrap())]));
}

#[test]
fn the_endpoint_is_taken_as_it_is() {
    let set = options(&[("HF_ENDPOINT", "https://mirror.example")]).endpoint;
    assert_eq!(set.as_deref(), Some("https://mirror.example"));
    assert_eq!(options(&[]).endpoint, None);
}
