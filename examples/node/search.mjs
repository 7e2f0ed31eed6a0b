// Searches a running server with the .proto files of this project.
//
// Run: npm install; node search.mjs localhost:50051 COLLECTION "a dog on a beach"
import path from "node:path";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [address, collection, text] = process.argv.slice(2);
const protos = process.env.MPLUG_PROTO ?? path.join(path.dirname(fileURLToPath(import.meta.url)), "../../proto");

const definition = protoLoader.loadSync("mplug_api/v1/search_service.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
});
const { SearchService } = grpc.loadPackageDefinition(definition).mplug_api.v1;
const client = new SearchService(address, grpc.credentials.createInsecure());

const request = { collection, parts: [{ text }], top_k: 3 };
client.Search(request, { deadline: Date.now() + 30_000 }, (error, response) => {
  client.close();
  if (error) {
    console.error(`${grpc.status[error.code]}: ${error.details}`);
    process.exitCode = 1;
    return;
  }
  for (const hit of response.hits) console.log(`${hit.score.toFixed(4)} ${hit.id}`);
});
