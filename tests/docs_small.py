"""What makes the commands of the documentation small, for test_docs.py."""

NET = "--model=small_net:Tiny"
SIZES = "--image_size=32 --patch_size=32 --stride=32"
TRAIN = f"{SIZES} --epochs=1 --num_patches=8 --batch_size=4"
WHOLE = "--image_size=32 --epochs=1 --num_patches=8 --batch_size=4"
# By method, the flags that make a run small.
METHODS = {
    "autoencoder": f"{NET} {TRAIN}",
    "bigan": f"{TRAIN} --width=4 --latent=4",
    # all that its presets set, so that they are one program
    "anogan": f"{TRAIN} --width=2 --latent=4 --search_steps=2 --learning_rate=1e-4 "
    "--search_rate=0.1 --search_schedule=constant --channels=1 --augment=none --distance=l2",
    "distilled": "--image_size=32 --epochs=1 --num_patches=8 --batch_size=4 --width=2",
    "f_anogan": f"{TRAIN} --width=4 --latent=4 --epochs=2 --encoder_epochs=1",
    "draem": f"{WHOLE} --width=2",
    "feature_dictionary": "--image_size=32 --features=lite0 --form=convolutional --weights=",
    "feature_autoencoder": "--image_size=32 --train_steps=3 --batch_size=4",
    "feature_memory": "--image_size=32",
    "feature_pca": "--image_size=32",
    "filter_bank": "--image_size=32",
    "gaussian": "--image_size=32",
    "gmm_texture": "--image_size=32 --components=2 --samples=1000 --em_rounds=2",
    "inpainting": f"{WHOLE} --width=2",
    "variation_model": "--image_size=32",
    "my_method": "--image_size=32",
}
CALLS = f"{NET} {SIZES} --repeats=1"
# What an image of that size is too small for, by flag.
WITHIN = {"--roi": "4,4,24,24", "--tile": "16", "--tile_overlap": "4"}
# By program, the flags that make it small; they take the place of the command's own.
SMALL = {
    "experiments.run": "METHOD --category=FIRST",
    "experiments.reproduce_thesis": f"--models=small_net:Tiny {TRAIN} --category=FIRST",
    "experiments.reproduce_thesis --methods": f"--methods=ae_l2 {TRAIN} --category=FIRST "
    "--flags_of= --flags_of_method=ae_l2:model=small_net:Tiny",
    "experiments.benchmark_methods": "--methods=filter_bank --image_size=32 --category=FIRST "
    "--seeds=0 --train_images=2 --flags_of=",
    **{f"experiments.{name}": "" for name in ("describe", "evaluate", "report", "score")},
    "experiments.export": "--format=stablehlo,onnx",
    "experiments.serve": "--port=0",
    "experiments.serve --watch": "--once --settle=0 --alarm_command= --webhook=",
    "experiments.make_synthetic": "--output_dir=made --category=weave --image_size=32",
    "benchmarks.inference": f"{CALLS} --batch_size=1,2 --against=",
    "benchmarks.training": f"{NET} --image_size=32 --patch_size=32 --repeats=1 --against= "
    "--batch_size=4 --num_patches=8",
    "benchmarks.latent_search": "--image_size=32 --patch_size=16 --stride=16 --width=2 --latent=3 "
    "--search_steps=2 --repeats=1 --against=",
    "benchmarks.fit": "--method=variation_model --image_size=32 --images=4 --repeats=1",
    "benchmarks.methods": "--methods=variation_model --image_size=32 --images=4 --repeats=1 "
    "--json=methods.json --against=",
    "benchmarks.learning": "--methods=variation_model --image_size=32 --images=4 --repeats=1 "
    "--json=learning.json",
    "benchmarks.beside": "--image_size=32 --against=",  # anomalib is not installed everywhere
    "benchmarks.layers": "--model=test_benchmarks:Model --image_size=32 --patch_size=16 "
    "--batch_size=4 --repeats=1",
    "benchmarks.members": f"{NET} --patch_size=32 --num_members=2 --batch_size=4 --repeats=1",
    "benchmarks.precision": "--repeats=1",
    "benchmarks.scaling": f"{NET} --patch_size=32 --num_members=2 --batch_size=4 --images=2 "
    "--devices=1 --repeats=1",
    "benchmarks.scoring": f"{NET} {SIZES} --images=2 --size=32",
    "benchmarks.start": "--model=tiny=runs/synthetic --repeats=1",
    "benchmarks.programs": "--method=variation_model --image_size=32 --category=FIRST",
    "benchmarks.ray_scoring": "",
    "benchmarks.exports": "--runs=runs/synthetic --category=weave --json=exports.json",
    "benchmarks.service": "--clients=2 --seconds=0.2 --requests=20 --hostile=20 --repeats=1",
    "benchmarks.compilation": "--calls=filter_bank",
    "benchmarks.accelerator": "--list --toy",
    "benchmarks.tables": "",
}
