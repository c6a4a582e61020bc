// The walkthrough of docs/local-personalize.md with the AWS SDK for JavaScript v3: its commands, its
// paginators, its exceptions. Prints what it found as JSON, for test_javascript.py to check.
import * as personalize from "@aws-sdk/client-personalize";

const [bucket, role] = process.argv.slice(2);
const client = new personalize.PersonalizeClient({ maxAttempts: 1 });
const send = (name, input) => client.send(new personalize[`${name}Command`](input));

async function create(kind, input) {
  const answer = await send(`Create${kind}`, input);
  const arn = Object.entries(answer).find(([name]) => name.endsWith("Arn"))[1];
  while (true) {
    const { status, failureReason } = await describe(kind, arn);
    if (status === undefined || status === "ACTIVE") return arn;
    if (status.includes("FAILED")) throw new Error(`${arn}: ${failureReason}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

const arnMember = (kind) => `${kind[0].toLowerCase()}${kind.slice(1)}Arn`;

async function describe(kind, arn) {
  const answer = await send(`Describe${kind}`, { [arnMember(kind)]: arn });
  return Object.entries(answer).find(([name]) => name !== "$metadata")[1];
}

async function remove(kind, arn) {
  await send(`Delete${kind}`, { [arnMember(kind)]: arn });
  while (true) {
    try {
      await describe(kind, arn);
    } catch (error) {
      if (error instanceof personalize.ResourceNotFoundException) return;
      throw error;
    }
    await new Promise((done) => setTimeout(done, 50));
  }
}

async function names(paginator, member, input = {}) {
  const pages = [];
  for await (const page of personalize[paginator]({ client, pageSize: 1 }, input)) {
    pages.push(page[member].map((entry) => entry.name ?? entry.jobName));
  }
  return pages;
}

const fields = ["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE"].map((name) => ({
  name,
  type: name === "TIMESTAMP" ? "long" : "string",
}));
const group = await create("DatasetGroup", { name: "films" });
const schema = await create("Schema", {
  name: "films",
  schema: JSON.stringify({
    type: "record",
    name: "Interactions",
    namespace: "com.amazonaws.personalize.schema",
    fields,
    version: "1.0",
  }),
});
await create("Schema", { name: "other", schema: (await describe("Schema", schema)).schema });
const dataset = await create("Dataset", {
  name: "films",
  datasetGroupArn: group,
  schemaArn: schema,
  datasetType: "Interactions",
});
for (const jobName of ["first", "second"]) {
  await create("DatasetImportJob", {
    jobName,
    datasetArn: dataset,
    dataSource: { dataLocation: `s3://${bucket}/interactions.csv` },
    roleArn: role,
  });
}
const solution = await create("Solution", {
  name: "films",
  datasetGroupArn: group,
  recipeArn: "arn:aws:personalize:::recipe/aws-user-personalization-v2",
  performAutoTraining: false,
});
const version = await create("SolutionVersion", { solutionArn: solution });
const { metrics } = await send("GetSolutionMetrics", { solutionVersionArn: version });
const filter = await create("Filter", {
  name: "seen",
  datasetGroupArn: group,
  filterExpression: 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")',
});
await create("BatchInferenceJob", {
  jobName: "nightly",
  solutionVersionArn: version,
  filterArn: filter,
  numResults: 5,
  roleArn: role,
  jobInput: { s3DataSource: { path: `s3://${bucket}/users.json` } },
  jobOutput: { s3DataDestination: { path: `s3://${bucket}/recommendations/` } },
});

const lists = {
  groups: await names("paginateListDatasetGroups", "datasetGroups"),
  schemas: await names("paginateListSchemas", "schemas"),
  imports: await names("paginateListDatasetImportJobs", "datasetImportJobs", {
    datasetArn: dataset,
  }),
  filters: await names("paginateListFilters", "Filters", { datasetGroupArn: group }),
  jobs: await names("paginateListBatchInferenceJobs", "batchInferenceJobs"),
  campaigns: await names("paginateListCampaigns", "campaigns"),
  recommenders: await names("paginateListRecommenders", "recommenders"),
};
const refusals = [];
for (const attempt of [
  () => send("CreateDatasetGroup", { name: "films" }),
  () => send("DeleteDataset", { datasetArn: dataset }),
  () => send("CreateCampaign", { name: "films", solutionVersionArn: version }),
]) {
  refusals.push(await attempt().then(() => null, (error) => error.name));
}

await remove("Filter", filter);
await remove("Solution", solution);
await remove("Dataset", dataset);
await remove("Schema", schema);
await remove("DatasetGroup", group);
const left = await names("paginateListDatasetGroups", "datasetGroups");
console.log(JSON.stringify({ lists, metrics, refusals, left, version }));
