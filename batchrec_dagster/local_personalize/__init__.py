"""Amazon Personalize's batch API on this machine, with AWS's requests, answers, files and failures.

`api.client.embedded_client` returns a boto3 client for a Personalize in this process. This package
knows nothing of Dagster or of pipelines. Its modules import each other relatively. From the rest of
batchrec they import only `errors`, `personalize`, `storage` and `web`, so this folder can be moved
to another project together with these modules.
"""

# The default region and account in ARNs.
REGION, ACCOUNT_ID = "us-east-1", "000000000000"
