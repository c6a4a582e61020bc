"""Amazon Personalize's batch API on this machine: the same requests, answers, files and failures.

`api.client.embedded_client` gives a boto3 client whose requests stay in this process. Nothing here
knows of Dagster or of pipelines. The modules import each other relatively, and of the rest of
batchrec `errors`, `personalize`, `storage` and `web`: the folder can be lifted out with these.
"""

# Those in ARNs, if no others are set.
REGION, ACCOUNT_ID = "us-east-1", "000000000000"
