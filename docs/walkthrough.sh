#!/usr/bin/env bash
# Batch recommendations with nothing but the `aws` command, on a local Personalize.
#
#   batchrec local-personalize --bucket walkthrough=/tmp/walkthrough    # in one terminal
#   docs/walkthrough.sh /tmp/walkthrough                                # in another
#
# The folder is the bucket s3://walkthrough. No account is needed, and nothing leaves this
# machine: the keys are fake. The commands are those of AWS, where nobody has tried the script yet.
set -euo pipefail

folder=${1:?"usage: $0 FOLDER (the server's folder for the bucket walkthrough)"}
bucket=s3://walkthrough
# On AWS, this role lets Personalize read and write the bucket. The local one needs only its name.
role=arn:aws:iam::000000000000:role/personalize
export AWS_ENDPOINT_URL_PERSONALIZE=${AWS_ENDPOINT_URL_PERSONALIZE:-http://127.0.0.1:9500}
export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local AWS_DEFAULT_REGION=us-east-1
export AWS_DEFAULT_OUTPUT=text AWS_PAGER=""

# wait_until_active KIND ARN: Personalize works in the background, so ask until it has finished.
wait_until_active() {
  local status
  while true; do
    status=$(aws personalize "describe-$1" "--$1-arn" "$2" --query '*.status | [0]')
    case $status in
      ACTIVE) return ;;
      *FAILED | *STOPPED)
        aws personalize "describe-$1" "--$1-arn" "$2" --query '*.failureReason | [0]' >&2
        return 1 ;;
    esac
    sleep "${PAUSE:-1}"
  done
}

# wait_until_gone KIND ARN: a resource exists until its deletion is complete.
wait_until_gone() {
  while aws personalize "describe-$1" "--$1-arn" "$2" >/dev/null 2>&1; do
    sleep "${PAUSE:-1}"
  done
}

# A job's name can be used only once, so each run of this script needs new ones.
now=$(date +%s)

echo "== Data: 100 users of two tastes, who watch 20 of the 30 films of their own taste"
mkdir -p "$folder"
awk 'BEGIN {
  print "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE"
  for (user = 0; user < 100; user++)
    for (n = 0; n < 20; n++)
      printf "user%d,film%d,%d,watch\n", user, (7 * user + n) % 30 * 2 + user % 2, \
        1700000000 + 1000 * n + user
}' >"$folder/interactions.csv"
awk 'BEGIN { for (user = 0; user < 100; user++) printf "{\"userId\":\"user%d\"}\n", user }' \
  >"$folder/users.json"

echo "== A dataset group, and a schema for the interactions"
group=$(aws personalize create-dataset-group --name walkthrough --query datasetGroupArn)
wait_until_active dataset-group "$group"
schema=$(aws personalize create-schema --name walkthrough --query schemaArn --schema '{
  "type": "record",
  "name": "Interactions",
  "namespace": "com.amazonaws.personalize.schema",
  "fields": [
    {"name": "USER_ID", "type": "string"},
    {"name": "ITEM_ID", "type": "string"},
    {"name": "TIMESTAMP", "type": "long"},
    {"name": "EVENT_TYPE", "type": "string"}
  ],
  "version": "1.0"
}')

echo "== The interactions dataset, and the import of the file"
dataset=$(aws personalize create-dataset --name walkthrough --dataset-type Interactions \
  --dataset-group-arn "$group" --schema-arn "$schema" --query datasetArn)
wait_until_active dataset "$dataset"
import=$(aws personalize create-dataset-import-job --job-name "walkthrough-$now" \
  --dataset-arn "$dataset" --data-source "dataLocation=$bucket/interactions.csv" \
  --role-arn "$role" --query datasetImportJobArn)
wait_until_active dataset-import-job "$import"

echo "== A solution (what to train, and how) and its first version (the trained model)"
solution=$(aws personalize create-solution --name walkthrough --dataset-group-arn "$group" \
  --recipe-arn arn:aws:personalize:::recipe/aws-user-personalization-v2 \
  --no-perform-auto-training --query solutionArn)
wait_until_active solution "$solution"
version=$(aws personalize create-solution-version --solution-arn "$solution" \
  --query solutionVersionArn)
wait_until_active solution-version "$version"

echo "== How good it is: the newest tenth of what some users watched, predicted from the rest"
aws personalize get-solution-metrics --solution-version-arn "$version" --query metrics --output json

echo "== Five films for every user, none that the user has watched"
filter=$(aws personalize create-filter --name walkthrough --dataset-group-arn "$group" \
  --filter-expression 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")' --query filterArn)
wait_until_active filter "$filter"
batch=$(aws personalize create-batch-inference-job --job-name "walkthrough-$now" \
  --solution-version-arn "$version" --filter-arn "$filter" --num-results 5 --role-arn "$role" \
  --job-input "s3DataSource={path=$bucket/users.json}" \
  --job-output "s3DataDestination={path=$bucket/recommendations/}" --query batchInferenceJobArn)
wait_until_active batch-inference-job "$batch"
head -n 3 "$folder/recommendations/users.json.out"

echo "== The other way round: for each of two films, the ten users who are likeliest to watch it"
printf '{"itemId":"%s"}\n' film0 film1 >"$folder/films.json"
segments=$(aws personalize create-solution --name walkthrough-segments \
  --dataset-group-arn "$group" --recipe-arn arn:aws:personalize:::recipe/aws-item-affinity \
  --no-perform-auto-training --query solutionArn)
wait_until_active solution "$segments"
version=$(aws personalize create-solution-version --solution-arn "$segments" \
  --query solutionVersionArn)
wait_until_active solution-version "$version"
segment=$(aws personalize create-batch-segment-job --job-name "walkthrough-$now" \
  --solution-version-arn "$version" --num-results 10 --role-arn "$role" \
  --job-input "s3DataSource={path=$bucket/films.json}" \
  --job-output "s3DataDestination={path=$bucket/segments/}" --query batchSegmentJobArn)
wait_until_active batch-segment-job "$segment"
cat "$folder/segments/films.json.out"

echo "== Clean up: what depends on something goes first"
aws personalize delete-filter --filter-arn "$filter"
aws personalize delete-solution --solution-arn "$solution"
aws personalize delete-solution --solution-arn "$segments"
wait_until_gone filter "$filter"
wait_until_gone solution "$solution"
wait_until_gone solution "$segments"
aws personalize delete-dataset --dataset-arn "$dataset"
wait_until_gone dataset "$dataset"
aws personalize delete-schema --schema-arn "$schema"
aws personalize delete-dataset-group --dataset-group-arn "$group"
wait_until_gone dataset-group "$group"
echo "== Done: see $folder/recommendations and $folder/segments"
