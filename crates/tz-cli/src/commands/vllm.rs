//! `vllm serialize` and `vllm deserialize`: the jobs of vLLM's example script, with its options. Owns what both take.

mod adapter;
mod deserialize;
mod keyfile;
mod kwargs;
mod model;
mod serialize;

use clap::Subcommand;

use crate::args::count;
use crate::error::Failure;
use crate::job::Session;
use crate::report::Report;

const EXAMPLES: &str = "\
Examples:
  tz-cli vllm serialize --model facebook/opt-125m --serialized-directory s3://my-bucket --suffix v1
  tz-cli vllm --model ./checkpoint serialize --serialized-directory models --tensor-parallel-size 2
  tz-cli vllm deserialize --serialized-directory models/vllm/checkpoint/v1";

/// Make and load the directories that vLLM serves with --load-format tensorizer
///
/// The jobs of vLLM's script tensorize_vllm_model.py, without vLLM, torch or a GPU. Options on the model may stand
/// before or after the job, as they do there. docs/VLLM.md has the whole walk.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(subcommand)]
    job: Job,
}

/// Options that vLLM's script takes before its job.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ModelArgs {
    /// The model: a directory, or an id of Hugging Face such as facebook/opt-125m, which is looked up in the cache of
    /// HF_HOME and downloaded where it is not there
    #[arg(long, global = true, value_name = "DIR|ID", help_heading = "Model")]
    model: Option<String>,
    /// Branch, tag or commit of a model from Hugging Face [default: main]
    #[arg(long, global = true, value_name = "REVISION", help_heading = "Model")]
    revision: Option<String>,
    /// A LoRA adapter to put beside the model: PEFT's directory, or an id of Hugging Face
    #[arg(long, global = true, value_name = "DIR|ID", help_heading = "Model")]
    lora_path: Option<String>,
    /// Name of the model in the directory that is made [default: the id, or the name of --model's folder]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Model")]
    served_model_name: Option<String>,
    /// How many GPUs share the model; each has a file of its own [default: 1]
    #[arg(long, global = true, value_name = "N", value_parser = count, help_heading = "Model")]
    tensor_parallel_size: Option<usize>,
}

impl ModelArgs {
    fn degree(&self) -> Result<u32, Failure> {
        let degree = self.tensor_parallel_size.unwrap_or(1);
        let too_many = || Failure::usage(format!("--tensor-parallel-size {degree}: too many"));
        u32::try_from(degree).ok().filter(|&degree| degree <= 1024).ok_or_else(too_many)
    }
}

#[derive(Debug, Subcommand)]
enum Job {
    Serialize(Box<serialize::Args>),
    Deserialize(deserialize::Args),
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<Report, Failure> {
    match &args.job {
        Job::Serialize(job) => {
            serialize::run(job, &args.model, session).map(Box::new).map(Report::VllmSerialize)
        }
        Job::Deserialize(job) => {
            deserialize::run(job, &args.model, session).map(Report::VllmDeserialize)
        }
    }
}
