"""`posts`: the table that importers and bots write and everything else starts from. Dagster does not make it."""

import dagster as dg

posts = dg.AssetSpec(
    "posts",
    description=(
        "Posts and their references to pictures, written by `vision-assets import`, `import-folder`, or any other "
        "writer of the tables `posts` and `post_media`."
    ),
    kinds={"postgres"},
    group_name="sources",
    owners=["team:vision"],
)
